"""The registry of data sets, and what a new one needs: a file and an entry."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from oass_jax import config_check, default_config
from oass_jax.data import pipeline, prepare, sources
from oass_jax.errors import UserError

# A data set that is read in place; its class names are known from its files alone.
IN_PLACE = """
import io
from pathlib import Path

import numpy as np
from PIL import Image

from oass_jax.data.example import Split


def open_split(name, split, location, *, class_names):
    assert (location.data_dir, class_names) == (None, None)
    class_names = tuple((Path(location.manual_dir) / "classes.txt").read_text().split())
    return Split(
        name=name,
        version="1",
        split=split,
        class_names=class_names,
        sources={"classes.txt": "3 names"},
        source=[record(i, i % len(class_names)) for i in range(5)],
    )


def record(number, label):
    buffer = io.BytesIO()
    Image.new("RGB", (8 + number, 6), (number, 0, 0)).save(buffer, "PNG")
    return {
        "image": buffer.getvalue(),
        "image/filename": b"%d.png" % number,
        "objects": {
            "bbox": [np.array([0, 0, 0.5, 1], np.float32)],
            "label": [label],
            "is_difficult": [False],
        },
        "labels": [label],
        "segmentation_mask": b"",
    }
"""


@pytest.fixture
def manual_dir(tmp_path, monkeypatch):
    """The folder of the data set `in_place`, which is in the registry for the test."""
    (tmp_path / "made_up_source.py").write_text(IN_PLACE)
    (tmp_path / "classes.txt").write_text("ant bee cat")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sources.OPENERS, "in_place", "made_up_source:open_split")
    yield tmp_path
    sys.modules.pop("made_up_source", None)


@pytest.mark.parametrize("name", sources.OPENERS)
def test_every_name_leads_to_an_opener(name):
    assert callable(sources.find_opener(name))


def test_names_are_those_of_the_builders_with_every_config():
    builders = {pkgutil.resolve_name(target) for target in sources.BUILDERS.values()}
    names = {
        f"{builder.name}/{config}" if config else builder.name
        for builder in builders
        for config in (list(builder.builder_configs) or [None])
    }
    assert names == set(sources.BUILDERS)
    assert set(sources.BUILDERS) <= set(sources.OPENERS)


def test_the_names_are_known_without_heavy_imports():
    heavy = ("tensorflow_datasets", "grain", "PIL", "numpy", "jax")
    code = f"import sys, oass_jax.data.sources; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_a_new_source_gives_batches(manual_dir):
    split = pipeline.open_split("in_place", "all", pipeline.Location(manual_dir=manual_dir))
    assert (split.name, split.split, split.challenge) == ("in_place", "all", None)
    assert split.class_names == ("ant", "bee", "cat")
    assert split.has_labels()
    options = pipeline.ReadOptions(
        canvas_px=10, max_boxes=2, difficult="ignore", num_workers=0, num_threads=0, cache=False
    )
    share = {"batch_size": 4, "process_index": 0, "process_count": 1}
    first, last = pipeline.eval_batches(split, options, **share)
    assert first["size"].tolist() == [[6, 8], [6, 9], [6, 10], [5, 10]]
    assert first["label"].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert first["box_label"].tolist() == [[0, -1], [1, -1], [2, -1], [0, -1]]
    assert last["index"].tolist() == [4, -1, -1, -1]
    batches = pipeline.train_batches(split, options, seed=0, start_step=0, **share)
    index = np.concatenate([next(batches)["index"] for _ in range(5)])
    assert np.bincount(index).tolist() == [4] * 5
    batches.close()


def test_the_command_line_knows_a_new_source(manual_dir):
    config = default_config.get_config()
    config.data.dataset = "in_place"
    config_check.check_config(config)
    config.data.dataset = "in_plaec"
    with pytest.raises(UserError, match=r"data\.dataset=in_plaec: did you mean in_place\?"):
        config_check.check_config(config)


def test_what_is_read_in_place_is_not_prepared(manual_dir):
    with pytest.raises(UserError, match="in_place is read in place: there is nothing to prepare"):
        prepare.prepare("in_place", data_dir=None, manual_dir=manual_dir)


def test_an_unknown_name_is_a_sentence():
    sentence = r"unknown data set 'digit_scene': did you mean digit_scenes\?"
    with pytest.raises(UserError, match=sentence):
        pipeline.open_split("digit_scene", "val", pipeline.Location())


def test_a_location_is_that_of_a_config_or_of_an_older_one():
    data = default_config.get_config().data
    data.path, data.split_seed = "~/labels.csv", 3
    location = sources.Location.from_fields(data, split_list=Path("split.csv"))
    assert location == sources.Location(
        path=Path.home() / "labels.csv", split_seed=3, split_list=Path("split.csv")
    )
    assert sources.Location.from_fields({}, split_list=None) == sources.Location()
