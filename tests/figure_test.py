"""The command figure, as the words a user types."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image

from oass_jax import figure
from tests.commands import call

EVALUATION = "eval/digit_scenes_val[:48]"


def run(*words):
    return call(words, command=figure.main)


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def check_files(out, number):
    """Both files of a figure are there, and the PNG can be opened."""
    with Image.open(out / f"figure{number}.png") as image:
        assert image.width > 500
        image.load()
    assert (out / f"figure{number}.svg").read_bytes().startswith(b"<?xml")
    return table(out / f"figure{number}.csv")


@pytest.fixture
def baseline(finished_run, tmp_path):
    """The same run with other scores, and no network."""
    folder = shutil.copytree(
        finished_run, tmp_path / "baseline", ignore=shutil.ignore_patterns("checkpoints", "tb")
    )
    path = folder / EVALUATION / "scores.npz"
    with np.load(path) as arrays:
        changed = dict(arrays)
    changed["prediction"] = np.roll(changed["prediction"], 1, axis=0)
    np.savez(path, **changed)
    return folder


def test_figure_2_needs_the_data_alone(digits, tmp_path):
    done = run(
        2, f"--out={tmp_path}", "--dataset=digit_scenes", "--split=val[:48]", f"--data_dir={digits}"
    )
    assert done.returncode == 0, done.stderr
    rows = check_files(tmp_path, 2)
    count = sum(int(row["objects"]) for row in rows)
    assert len(rows) == 10
    assert done.stdout.startswith(f"{count} objects of digit_scenes val[:48]: |Δx| ")


def test_figure_4_knows_the_boxes_of_an_image_of_the_split(finished_run, scenes, tmp_path):
    name = sorted(scenes.iterdir())[0].name
    done = run(4, f"--workdir={finished_run}", f"--image={name}", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    rows = check_files(tmp_path, 4)
    strategies = list(dict.fromkeys(row["strategy"] for row in rows))
    assert strategies == ["max", "cmax", "ctopk", "ctopk_w", "gt_bbox"]
    labels = {row["class"] for row in rows} - {""}
    for label in labels:
        (found,) = [r for r in rows if (r["strategy"], r["class"]) == ("gt_bbox", label)][:1]
        centres = [
            (float(r["y_px"]), float(r["x_px"]))
            for r in rows
            if (r["class"], r["point"]) == (label, "box centre")
        ]
        keypoint = float(found["y_px"]), float(found["x_px"])
        assert keypoint == pytest.approx(tuple(np.mean(centres, axis=0)), abs=1e-3)


def test_figure_4_of_a_file_takes_the_classes_that_are_named(finished_run, scenes, tmp_path):
    path = sorted(scenes.iterdir())[0]
    first, second = (finished_run / "classes.txt").read_text().split()[:2]
    words = [4, f"--workdir={finished_run}", f"--image={path}", f"--out={tmp_path}"]
    done = run(*words, f"--label={second}", f"--label={first}")
    assert done.returncode == 0, done.stderr
    rows = table(tmp_path / "figure4.csv")
    assert {row["class"] for row in rows} == {"", first, second}
    assert {row["strategy"] for row in rows} == {"max", "cmax", "ctopk", "ctopk_w"}


def test_figure_5_shows_both_runs_on_the_same_images(finished_run, scenes, tmp_path):
    paths = sorted(scenes.iterdir())[:2]
    runs = [f"--workdir={finished_run}", f"--baseline={finished_run}"]
    done = run(5, *runs, f"--out={tmp_path}", *paths)
    assert done.returncode == 0, done.stderr
    rows = check_files(tmp_path, 5)
    assert [row["image"] for row in rows] == [str(path) for path in paths for _ in runs]
    with (finished_run / EVALUATION / "predictions.csv").open() as file:
        evaluated = {row.pop("image"): row for row in csv.DictReader(file)}
    for row, name in zip(rows[::2], (path.name for path in paths), strict=True):
        expected = {label: float(p) for label, p in evaluated[name].items()}
        assert row["class"] == max(expected, key=expected.get)
        assert float(row["probability"]) == pytest.approx(expected[row["class"]], abs=1e-4)


def test_figure_6_compares_two_evaluations(finished_run, baseline, tmp_path):
    done = run(6, f"--workdir={finished_run}", f"--baseline={baseline}", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    rows = check_files(tmp_path, 6)
    with (finished_run / EVALUATION / "per_class.csv").open() as file:
        expected = {row["class"]: float(row["ap"]) for row in csv.DictReader(file)}
    assert {row["class"]: float(row["ap"]) for row in rows} == expected
    pearson, spearman = table(tmp_path / "figure6_correlation.csv")
    assert done.stdout.startswith(f"Pearson {float(pearson['value']):+.3f}, 95 % interval ")
    assert (pearson["classes"], spearman["correlation"]) == ("10", "Spearman")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: FIGURE"),
        (["3"], "invalid choice: '3'"),
        (["2"], "required: --out"),
        (["2", "--ouut=x"], "--ouut is not a flag: did you mean --out?"),
        (["2", "--out=o", "--dataset=coco"], "--dataset=coco needs the path"),
        (["2", "--out=o", "--dataset=vocc/2012"], "did you mean voc/2012?"),
        (["4", "--workdir=no", "--image=x", "--out=o"], "no holds no run"),
        (["4", "--workdir={}", "--image=x.png", "--out=o"], "x.png is neither a file nor an image"),
        (["6", "--workdir={}", "--baseline={}", "--out=o", "--eval=x"], "has no evaluation x"),
        (["6", "--workdir={}", "--baseline=no", "--out=o"], "no is no folder"),
    ],
)
def test_an_error_is_one_line_and_exit_status_2(finished_run, words, message):
    done = run(*(word.replace("{}", str(finished_run)) for word in words))
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr


def test_a_folder_that_cannot_be_written_to_is_reported(digits, tmp_path):
    (tmp_path / "file").touch()
    data = ["--dataset=digit_scenes", "--split=val[:48]", f"--data_dir={digits}"]
    done = run(2, f"--out={tmp_path / 'file'}", *data)
    assert done.returncode == 2
    assert f"cannot write to --out={tmp_path / 'file'}" in done.stderr
