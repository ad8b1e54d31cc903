"""What the app shows, without gradio and a browser: tests/browser/app.py uses the page itself."""

import re
import sys
import tomllib
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import oass_jax
from oass_jax import app
from oass_jax.app_view import View
from oass_jax.errors import UserError
from tests.commands import call, mesh_of

ROOT = Path(__file__).parents[1]
PATTERN = r'<div class="bar (label)?".*?class="name" title="(.*?)".*?class="number".*?>(.*?)<'


@pytest.fixture(scope="module")
def model(finished_run):
    with mesh_of(1):
        return oass_jax.load(finished_run)


@pytest.fixture(scope="module")
def path(scenes):
    return str(sorted(scenes.iterdir())[0])


@pytest.fixture(scope="module")
def seen(model, path):
    return View(model).predict(path)


def bars(text):
    """Name and number of each bar, and whether it is that of a label."""
    found = re.findall(PATTERN, text, re.DOTALL)
    return [(name, float(number), bool(label)) for label, name, number in found]


def test_bars_are_sorted_and_labels_set_off(model, seen, path):
    result = model(path)
    by_rank = sorted(result.probability.items(), key=lambda item: -item[1])
    assert bars(View(model).bars(seen, None)) == [
        (name, round(p, 2), name in result.labels) for name, p in by_rank
    ]


def test_the_threshold_moves_without_another_prediction(model, seen):
    ranked = sorted(seen.result.probability.values(), reverse=True)
    with mock.patch.object(type(model), "__call__", side_effect=AssertionError):
        for count in (1, 4, 9):
            limit = (ranked[count - 1] + ranked[count]) / 2
            found = bars(View(model).bars(seen, limit))
            assert [is_label for *_, is_label in found] == [True] * count + [False] * (10 - count)
            assert len(View(model).labels(seen, limit)) == count


def test_names_of_classes_are_no_html(model, seen):
    view = View(model)
    evil = "<img src=x>"
    names = [evil, *model.class_names[1:]]
    probability = dict(zip(names, seen.result.probability.values(), strict=True))
    changed = seen._replace(result=mock.Mock(probability=probability))
    with mock.patch.object(model, "class_names", names):
        text = view.bars(changed, 0.5)
    assert evil not in text
    assert "&lt;img src=x&gt;" in text


def test_a_map_is_drawn_over_the_image_with_the_cut_of_the_run(model, seen):
    view, name = View(model), model.class_names[2]
    plain, nothing = view.drawing(seen, name, None, with_cut=False)
    cut, text = view.drawing(seen, name, 1e-9, with_cut=True)
    assert plain.size == cut.size == seen.image.size
    assert max(plain.size) >= 320
    assert nothing == ""
    # One keypoint for all labels, which are all classes at this threshold.
    found = re.fullmatch(r"max of (.*) cuts at x = (\d+), y = (\d+) px\.", text)
    assert set(found[1].split(", ")) == set(model.class_names)
    changed = np.argwhere((np.asarray(plain) != np.asarray(cut)).any(axis=-1))
    x, y = (int(found[i]) * cut.width / seen.result.size[1] for i in (2, 3))
    on_lines = (abs(changed - np.array([y, x])) < 4).any(axis=-1)
    assert on_lines.mean() > 0.5


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("teacher.mode", "none", "without patches"),
        ("keypoint.strategy", "gt_bbox", "boxes"),
        ("keypoint.strategy", "cmax", "cmax of one cuts at"),
    ],
)
def test_what_a_run_does_not_cut_is_said(model, seen, field, value, text):
    section, name = field.split(".")
    with mock.patch.object(model, "config", model.config.copy_and_resolve_references()):
        model.config[section][name] = value
        assert text in View(model).drawing(seen, "one", None, with_cut=True)[1]


def test_a_file_that_is_no_image_is_reported(model, tmp_path):
    (tmp_path / "x.png").write_text("no image")
    with pytest.raises(UserError, match=r"x\.png cannot be decoded"):
        View(model).predict(str(tmp_path / "x.png"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: --workdir"),
        (["--workdir=w", "--prot=1"], "did you mean --port?"),
        (["--workdir=w", "--port=70000"], "must be from 1 to 65535"),
        (["--workdir=w"], "w holds no run"),
    ],
)
def test_an_error_is_one_line_and_exit_status_2(words, message):
    done = call(words, command=app.main)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr


def test_without_gradio_the_command_names_what_to_install(finished_run):
    with mock.patch.dict(sys.modules, {"gradio": None}):
        done = call([f"--workdir={finished_run}"], command=app.main)
    assert (done.returncode, done.stdout) == (2, "")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = project["optional-dependencies"]["app"]
    assert done.stderr.endswith(f'pip install "{wanted}"\n')
    assert len(done.stderr.splitlines()) == 1
