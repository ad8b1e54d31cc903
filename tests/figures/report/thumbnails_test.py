import base64
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from oass_jax.data import sources
from oass_jax.data.sources import Location
from oass_jax.figures import source
from oass_jax.figures.report import thumbnails
from oass_jax.run.workdir import Workdir
from tests.reports import labels_and_logits, names, write_images, write_run

LABEL, LOGITS = labels_and_logits(12, 3)
CLASSES = ["cat", "dog", "owl"]
IMAGES = names(12, "", ".jpg")


@pytest.fixture
def run(tmp_path):
    path = write_images(tmp_path / "images", IMAGES, LABEL, CLASSES, size=(640, 480))
    run = write_run(tmp_path / "run", LABEL, LOGITS, class_names=CLASSES, images=IMAGES, path=path)
    return source.read(Workdir(run), "csv_val", name="run")


def read(run, wanted, *, max_bytes=1_000_000):
    return thumbnails.read(run, wanted, max_bytes=max_bytes)


def decoded(thumbnail):
    data = base64.b64decode(thumbnail.uri.removeprefix("data:image/webp;base64,"))
    return Image.open(io.BytesIO(data))


def mean_difference(thumbnail, path):
    with Image.open(path) as image:
        expected = np.asarray(image.resize((112, 84), Image.Resampling.BICUBIC), float)
    return np.abs(np.asarray(decoded(thumbnail).convert("RGB"), float) - expected).mean()


def test_images_are_small_and_those_that_were_asked_for(run, tmp_path):
    found, notes = read(run, [7, 2, 7])
    assert list(found) == [7, 2]
    assert notes == []
    assert (found[7].width, found[7].height) == decoded(found[7]).size == (112, 84)
    assert mean_difference(found[7], tmp_path / "images" / IMAGES[7]) < 12
    assert mean_difference(found[7], tmp_path / "images" / IMAGES[2]) > 30


def test_the_first_are_taken_as_long_as_there_is_room(run, monkeypatch):
    one = read(run, [5])[0][5]
    assert list(read(run, [5, 4, 3, 2], max_bytes=int(2.5 * len(one.uri)))[0]) == [5, 4]
    monkeypatch.setattr(thumbnails, "MAX_IMAGES", 1)
    assert list(read(run, [5, 4, 3, 2])[0]) == [5]


def test_images_are_found_by_name_where_the_list_has_changed(run, tmp_path):
    path = tmp_path / "images" / "labels.csv"
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([header, *lines[:0:-1]]))
    found, notes = read(run, [0, 7])
    assert list(found) == [7]
    assert mean_difference(found[7], tmp_path / "images" / IMAGES[7]) < 12
    assert notes == ["1 images are not shown, such as: 0000.jpg is not in csv val any more."]


def test_images_of_another_list_than_the_run_was_trained_on(run, tmp_path):
    path = write_images(tmp_path / "others", IMAGES, LABEL, CLASSES)
    run.summary.update(dataset="csv/others/labels")
    found, (note,) = read(run, [7])
    assert (found, "evaluate it again" in note) == ({}, True)
    run.summary.update(path=str(path), image_dir="")
    shutil.rmtree(tmp_path / "images")
    found, notes = read(run, [7])
    assert (list(found), notes) == ([7], [])


def test_a_damaged_image_is_reported_and_the_others_are_there(run, tmp_path):
    (tmp_path / "images" / IMAGES[3]).write_bytes(b"no image")
    found, (note,) = read(run, [3, 4])
    assert list(found) == [4]
    assert "0003.jpg" in note
    assert "cannot be decoded" in note


def test_without_the_data_there_are_none_and_a_sentence(run, tmp_path):
    shutil.rmtree(tmp_path / "images")
    found, (note,) = read(run, [1])
    assert found == {}
    assert note.startswith("The report has no images: there is no ")


def test_without_its_config_there_are_none(run):
    run.folder.config.unlink()
    found, (note,) = read(run, [1])
    assert found == {}
    assert "does not say where they are" in note


def test_nothing_is_prepared_or_downloaded(run, tmp_path):
    config = json.loads(run.folder.config.read_text())
    config["data"]["data_dir"] = str(tmp_path / "tfds")
    run.folder.config.write_text(json.dumps(config))
    run.summary.update(dataset="voc/2012")
    found, (note,) = read(run, [1])
    assert found == {}
    assert "voc/2012 is not prepared" in note
    assert not (tmp_path / "tfds").exists()


def of_digits(data_dir, folder):
    """An evaluation of scenes that lie in a folder, which names them by number."""
    split = sources.find_opener("digit_scenes")(
        "digit_scenes", "val[:12]", Location(data_dir=data_dir)
    )
    images = [split.filename(n) for n in range(12)]
    data = {"data_dir": str(data_dir)}
    write_run(
        folder, LABEL, LOGITS, images=images, split="val[:12]", dataset="digit_scenes", data=data
    )
    return source.read(Workdir(folder), "csv_val[:12]", name="run")


def test_images_of_a_prepared_data_set(digits, tmp_path):
    found, notes = read(of_digits(digits, tmp_path / "run"), [3, 11])
    assert list(found) == [3, 11]
    assert notes == []


def test_records_that_are_gone_are_reported(digits, tmp_path):
    """The folder says that it is prepared, but its records are gone."""
    shutil.copytree(digits, tmp_path / "data")
    run = of_digits(tmp_path / "data", tmp_path / "run")
    for path in (tmp_path / "data").rglob("*.array_record*"):
        path.unlink()
    found, (note,) = read(run, [3])
    assert found == {}
    assert note.startswith("1 images are not shown, such as: ")
