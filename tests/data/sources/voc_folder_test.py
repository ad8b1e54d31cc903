"""A folder of XML files and images, with classes of any name."""

import os
import shutil

import pytest

from oass_jax.data import pipeline
from oass_jax.data.sources import image_list, voc_folder
from oass_jax.data.sources.image_list import ListError
from oass_jax.errors import UserError
from tests.conftest import voc_object

SIZE = "<size><width>8</width><height>{}</height></size>"


@pytest.fixture
def folder(tmp_path, sample_images):
    sample_images(tmp_path / "JPEGImages", ["a.png", "b.png", "c.png"])
    (tmp_path / "Annotations").mkdir()
    for name, height, objects in (
        ("a", 6, [voc_object("okapi", 1, 1, 6, 4), voc_object("tapir", 4, 5, 6, 8, difficult=1)]),
        ("b", 7, [voc_object("tapir", 1, 1, 7, 8)]),
        ("c", 8, []),
    ):
        write(tmp_path, name, SIZE.format(height) + "".join(objects))
    return tmp_path


def write(folder, name, content):
    path = folder / "Annotations" / f"{name}.xml"
    path.write_text(f"<annotation>{content}</annotation>")


def write_list(folder, split, *ids):
    path = folder / "ImageSets" / "Main" / f"{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{i}\n" for i in ids))


def opened(folder, split="all", **location):
    return pipeline.open_split("voc_folder", split, pipeline.Location(path=folder, **location))


def test_classes_boxes_and_difficult_objects(folder):
    split = opened(folder)
    assert split.class_names == ("okapi", "tapir")
    assert split.labels().tolist() == [[1, 1], [0, 1], [0, 0]]
    record = split.source[0]
    assert record["image"] == folder / "JPEGImages" / "a.png"
    boxes = [list(box) for box in record["objects"]["bbox"]]
    assert boxes == [[0, 0, 1, 0.5], [0.5, 0.5, 1, 1]]
    assert record["objects"]["is_difficult"] == [False, True]
    assert split.has_boxes


def test_lists_are_the_splits(folder):
    write_list(folder, "train", "a", "b")
    write_list(folder, "val", "c")
    write_list(folder, "trainval", "a", "b", "c")
    write_list(folder, "okapi_train", "a  1", "b -1")
    assert [opened(folder, "train").filename(i) for i in range(2)] == ["a", "b"]
    assert len(opened(folder, "val")) == 1
    assert opened(folder, "val").siblings == ("train", "val")
    first = opened(folder, "train").sources
    write(folder, "c", SIZE.format(8) + voc_object("okapi", 1, 1, 2, 2))
    assert opened(folder, "train").sources != first


def test_without_lists_a_split_is_drawn(folder):
    assert {len(opened(folder, name, val_fraction=0.34)) for name in ("train", "val")} == {1, 2}


def test_lists_may_have_the_names_that_cvat_gives_them(folder):
    write_list(folder, "Train", "a")
    write_list(folder, "Validation", "b")
    write_list(folder, "Test", "c")
    write_list(folder, "extra", "a")
    assert [len(opened(folder, name)) for name in ("train", "val", "test")] == [1, 1, 1]
    assert opened(folder).notes[0].endswith("lists: test, train, val; not read: extra.txt")
    write_list(folder, "val", "a")  # the plain name comes first
    write_list(folder, "train", "b")
    assert [opened(folder, name).filename(0) for name in ("train", "val")] == ["b", "a"]
    unread = "Train.txt, Validation.txt, extra.txt"
    assert opened(folder).notes[0].endswith(f"lists: test, train, val; not read: {unread}")


def test_trainval_is_for_training_where_only_another_list_is(folder):
    write_list(folder, "trainval", "a", "b")
    assert {len(opened(folder, name, val_fraction=0.34)) for name in ("train", "val")} == {1, 2}
    write_list(folder, "test", "c")
    assert [len(opened(folder, name)) for name in ("train", "test")] == [2, 1]


def test_nothing_is_left_out_without_a_word(folder):
    (folder / "Annotations" / "b.xml").rename(folder / "Annotations" / "b.XML")
    for part, suffix in (("Annotations", ".xml"), ("JPEGImages", ".png")):
        (folder / part / "sub").mkdir()
        shutil.move(folder / part / f"c{suffix}", folder / part / "sub" / f"c{suffix}")
    shutil.copy(folder / "JPEGImages" / "a.png", folder / "JPEGImages" / "new.png")
    for name in ("backup", ".ipynb_checkpoints"):
        shutil.copytree(folder / "Annotations" / "sub", folder / "Annotations" / name)
    write_list(folder, "train", "a")
    write_list(folder, "val", "sub/c")
    split = opened(folder)
    assert [split.filename(i) for i in range(3)] == ["a", "b", "sub/c"]
    assert len(opened(folder, "val")) == 1
    first, second, third = split.notes[1:4]
    assert first.startswith("warning: 1 annotations in folders below")
    assert first.endswith("not read, such as backup/c")
    assert second.startswith("warning: 1 images have no annotation and are not read, such as new: ")
    assert "are in no split of the lists, such as b: only" in third


def test_a_name_with_a_number_is_not_that_without(folder):
    for name in ("photo", "photo (1)", "photo 1"):
        write(folder, name, SIZE.format(8))
        shutil.copy(folder / "JPEGImages" / "a.png", folder / "JPEGImages" / f"{name}.png")
    write_list(folder, "train", "photo (1)", "photo 1", "a 1")
    write_list(folder, "val", "photo  1", "b")
    found = [record["image"].stem for record in opened(folder, "train").source]
    assert found == ["a", "photo (1)", "photo 1"]
    assert [record["image"].stem for record in opened(folder, "val").source] == ["b", "photo"]


def test_ids_may_hold_spaces_and_a_list_a_mark_of_its_encoding(folder):
    for name in ("my photo (1)", "my photo (2)"):
        write(folder, name, SIZE.format(8) + voc_object("okapi", 1, 1, 2, 2))
        shutil.copy(folder / "JPEGImages" / "a.png", folder / "JPEGImages" / f"{name}.png")
    write_list(folder, "train", "\ufeffa", "my photo (1)", "my photo (2)")
    assert [record["image"].stem for record in opened(folder, "train").source] == [
        *("a", "my photo (1)", "my photo (2)")
    ]
    write_list(folder, "train", "a", "my photo (3)", "my photo (4)")
    with pytest.raises(ListError, match=r"lists my photo \(3\), which has no annotation"):
        opened(folder)
    write_list(folder, "train", "a", "a")
    with pytest.raises(ListError, match=r"train\.txt lists a twice"):
        opened(folder)


def test_a_name_that_is_not_utf8_is_a_problem(folder, monkeypatch):
    assert image_list.is_utf8("Straße.xml")
    assert not image_list.is_utf8(os.fsdecode(b"Stra\xdfe.xml"))
    # Some systems have no such files.
    monkeypatch.setattr(voc_folder, "is_utf8", lambda name: name != "b")
    with pytest.raises(ListError, match=r"^the name 'b\.xml' is not UTF-8: rename it"):
        opened(folder)


def test_mistakes_name_the_file(folder, tmp_path_factory):
    with pytest.raises(UserError, match=r"has no Annotations/\*\.xml: name the folder"):
        opened(tmp_path_factory.mktemp("empty"))
    write_list(folder, "train", "a", "x")
    with pytest.raises(ListError, match=r"train\.txt lists x, which has no annotation"):
        opened(folder)
    write_list(folder, "train", "a")
    write_list(folder, "val", "a")
    with pytest.raises(ListError, match=r"val\.txt lists a, which train\.txt does, too"):
        opened(folder)
    write_list(folder, "val", "b")
    write(folder, "b", "")
    write(folder, "c", SIZE.format(8) + voc_object("", 1, 1, 2, 2))
    with pytest.raises(ListError, match=r"c\.xml is no usable annotation: unknown class ''"):
        opened(folder)
    write(folder, "c", voc_object("okapi", 1, 1, 2, 2))
    with pytest.raises(
        ListError, match=r"c\.xml is no usable annotation: <annotation> has no <siz"
    ):
        opened(folder)
    write(folder, "c", "")
    (folder / "JPEGImages" / "b.png").unlink()
    with pytest.raises(ListError, match=r"Annotations/b\.xml: there is no image"):
        opened(folder)
