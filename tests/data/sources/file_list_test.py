"""What the lists of all formats have in common: splits, slices, fingerprints."""

import pickle

import numpy as np
import pytest

from oass_jax.data import pipeline
from oass_jax.errors import UserError

OPTIONS = pipeline.ReadOptions(
    canvas_px=8, max_boxes=1, difficult="positive", num_workers=0, num_threads=0, cache=False
)


@pytest.fixture
def folder(tmp_path, sample_images):
    """Forty images: every fourth has a cat, the others a dog, and the first eight both."""
    names = [f"{n:02}.png" for n in range(40)]
    sample_images(tmp_path, names)
    labels = ["cat|dog" if n < 8 else "cat" if n % 4 == 0 else "dog" for n in range(40)]
    rows = [f"{name},{label}\n" for name, label in zip(names, labels, strict=True)]
    (tmp_path / "labels.csv").write_text("image,labels\n" + "".join(rows))
    return tmp_path


def opened(folder, split, **changes):
    return pipeline.open_split(
        "csv", split, pipeline.Location(path=folder / "labels.csv", **changes)
    )


def names(split):
    return [split.filename(index) for index in range(len(split))]


def test_a_drawn_split_is_even_by_label_and_the_same_each_time(folder):
    train, val = opened(folder, "train"), opened(folder, "val")
    assert 6 <= len(val) <= 10
    assert sorted(names(train) + names(val)) == names(opened(folder, "all"))
    np.testing.assert_allclose(train.labels().mean(axis=0), val.labels().mean(axis=0), atol=0.1)
    assert names(opened(folder, "val")) == names(val)
    assert names(opened(folder, "val", split_seed=1)) != names(val)
    assert 16 <= len(opened(folder, "val", val_fraction=0.5)) <= 24
    assert any(f"{len(val)} of 40 were drawn" in note for note in val.notes)
    assert train.split_list == val.split_list


def test_a_choice_that_was_kept_stays(folder):
    val = opened(folder, "val")
    kept = folder / "split.csv"
    kept.write_text(val.split_list)
    assert val.split_list.splitlines()[0] == "image,split"
    again = opened(folder, "val", split_list=kept, split_seed=7, val_fraction=0.5)
    assert (names(again), again.split_list) == (names(val), "")
    with (folder / "labels.csv").open("a") as file:
        file.write("new.png,dog\n")
    (folder / "new.png").write_bytes((folder / "00.png").read_bytes())
    grown = opened(folder, "train", split_list=kept)
    assert len(grown) == 40 - len(val)
    assert any("1 images" in note and "new.png" in note for note in grown.notes)
    kept.write_text("image,split\n00.png,tarin\n")
    with pytest.raises(UserError, match=r"split\.csv is damaged"):
        opened(folder, "train", split_list=kept)


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.99, 1.0])
def test_both_splits_need_images(folder, fraction):
    with pytest.raises(UserError, match=r"40 images cannot be divided with data\.val_fraction"):
        opened(folder, "train", val_fraction=fraction)


@pytest.mark.parametrize("labels", [["cat"] * 10 + [""] * 10, [f"c{n}" for n in range(20)]])
def test_one_class_and_labels_without_company_are_divided_too(folder, labels):
    rows = [f"{n:02}.png,{label}\n" for n, label in enumerate(labels)]
    (folder / "labels.csv").write_text("image,labels\n" + "".join(rows))
    train, val = opened(folder, "train"), opened(folder, "val")
    assert 2 <= len(val) <= 6
    assert sorted(names(train) + names(val)) == [f"{n:02}.png" for n in range(20)]


def test_a_split_without_images_is_refused(folder):
    with pytest.raises(UserError, match=r"csv val\[:0\] has no images: choose another split"):
        opened(folder, "val[:0]")


def test_slices(folder):
    everything = names(opened(folder, "all"))
    assert names(opened(folder, "all[:3]")) == everything[:3]
    assert names(opened(folder, "all[50%:]")) == everything[20:]
    assert names(opened(folder, "train[5:-3]")) == names(opened(folder, "train"))[5:-3]
    for wrong in ("all[:3", "all[:99]", "all[x]"):
        with pytest.raises(UserError, match=r"is no slice: write it as all\[:100\]"):
            opened(folder, wrong)


def test_a_list_for_each_split(folder, sample_images):
    text = (folder / "labels.csv").read_text().splitlines(keepends=True)
    for split, rows in (("train", text[1:31]), ("val", text[31:])):
        (folder / f"labels_{split}.csv").write_text(text[0] + "".join(rows))
        sample_images(folder / split, [row.split(",")[0] for row in rows])
    location = pipeline.Location(path=folder / "labels_{split}.csv", image_dir=folder / "{split}")
    train = pipeline.open_split("csv", "train", location)
    val = pipeline.open_split("csv", "val[:4]", location, class_names=train.class_names)
    assert (len(train), len(val)) == (30, 4)
    assert val.source[0]["image"] == folder / "val" / "30.png"
    assert train.siblings == ("train",)
    with pytest.raises(UserError, match=r"there is no .*labels_test\.csv"):
        pipeline.open_split("csv", "test", location)


def test_the_fingerprint_is_of_list_sizes_and_split(folder):
    def fingerprint(**changes):
        return pipeline.fingerprint(opened(folder, "val", **changes), OPTIONS, batch_size=4, seed=0)

    first = fingerprint()
    assert fingerprint() == first
    assert fingerprint(split_seed=1)["sources"] != first["sources"]
    path = folder / names(opened(folder, "val"))[0]
    content = path.read_bytes()
    path.write_bytes(content + b"0")
    assert fingerprint()["sources"] != first["sources"]
    path.write_bytes(content)
    assert fingerprint() == first
    text = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(text.replace("39.png,dog", "39.png,cat"))
    assert fingerprint()["sources"] != first["sources"]


def test_a_split_goes_to_worker_processes_without_its_images(folder):
    split = opened(folder, "all")
    assert len(pickle.dumps(split)) < 20_000
    record = pickle.loads(pickle.dumps(split)).source[3]
    assert (record["image"], record["labels"]) == (folder / "03.png", [0, 1])


def test_a_file_that_goes_after_opening_is_a_sentence(folder):
    split = opened(folder, "all")
    (folder / "05.png").unlink()
    with pytest.raises(UserError, match=r"05\.png \(labels\.csv, line 7\) cannot be read: No such"):
        pipeline.ExampleReader(split, OPTIONS)(5)
    (folder / "06.png").write_bytes(b"GIF89a")
    with pytest.raises(UserError, match=r"06\.png \(labels\.csv, line 8\) cannot be decoded"):
        pipeline.ExampleReader(split, OPTIONS)(6)
