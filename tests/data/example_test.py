import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from oass_jax.data.example import ExampleReader, ReadOptions, Split, stack_examples
from oass_jax.errors import UserError


def record(name, *, labels=(), difficult=(), size=(8, 4)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (10, 20, 30)).save(buffer, "PNG")
    boxes = [np.array([0.1 * i, 0, 1, 1], np.float32) for i in range(len(labels))]
    return {
        "image": buffer.getvalue(),
        "image/filename": name.encode(),
        "labels": sorted(set(labels)),
        "objects": {"bbox": boxes, "label": list(labels), "is_difficult": list(difficult)},
    }


RECORDS = [
    # Class 0 is difficult in one of its two objects, class 2 in its only one.
    record("a.jpg", labels=(2, 0, 0), difficult=(True, False, True)),
    record("empty.jpg", size=(2, 6)),
    {**record("damaged.jpg"), "image": b"\xff\xd8\xff"},
]
SPLIT = Split(
    name="voc/2012",
    version="1.0.0",
    split="val",
    class_names=("x", "y", "z"),
    sources={},
    source=RECORDS,
)


OPTIONS = ReadOptions(
    canvas_px=16, max_boxes=3, difficult="positive", num_workers=0, num_threads=0, cache=False
)


def reader(**changes):
    return ExampleReader(SPLIT, dataclasses.replace(OPTIONS, **changes))


@pytest.mark.parametrize(
    ("rule", "label"),
    [("positive", [1, 0, 1]), ("ignore", [1, 0, -1]), ("negative", [1, 0, 0])],
)
def test_a_class_is_difficult_only_if_all_its_objects_are(rule, label):
    assert reader(difficult=rule)(0)["label"].tolist() == label


def test_arrays_of_a_record():
    example = reader(max_boxes=4)(0)
    assert example["box_label"].tolist() == [2, 0, 0, -1]
    np.testing.assert_allclose(example["boxes"][:, 0], [0, 0.1, 0.2, 0], rtol=1e-6)
    assert example["boxes"][3].tolist() == [0, 0, 0, 0]
    assert example["size"].tolist() == [4, 8]
    assert example["mask"]
    assert example["index"] == 0
    dtypes = {key: value.dtype.name for key, value in example.items()}
    assert dtypes == {
        "image": "uint8",
        "size": "int32",
        "label": "int8",
        "boxes": "float32",
        "box_label": "int32",
        "mask": "bool",
        "index": "int32",
        "checksum": "uint32",
    }


def test_an_image_without_objects_and_padding():
    assert reader()(1)["box_label"].tolist() == [-1, -1, -1]
    padding = reader()(3)
    assert not padding["mask"]
    assert padding["index"] == -1
    assert padding["size"].tolist() == [0, 0]
    assert not padding["label"].any()


def test_more_objects_than_slots_name_the_field():
    with pytest.raises(UserError, match=r"a\.jpg of voc/2012 val has 3 .* data\.max_boxes"):
        reader(max_boxes=2)(0)


def test_a_damaged_image_names_file_and_data_set():
    with pytest.raises(UserError, match=r"^damaged\.jpg of voc/2012 val cannot be decoded"):
        reader()(2)


def test_an_unknown_rule_is_refused():
    with pytest.raises(UserError, match="'maybe': there are positive, ignore, negative"):
        reader(difficult="maybe")


def test_the_cache_decodes_once():
    cached = reader(cache=True)
    assert cached(0) is cached(0)
    plain = reader()
    assert plain(0) is not plain(0)


def test_stacking_pads_to_the_canvas():
    batch = stack_examples([reader()(i) for i in (0, 1, 3)], canvas_px=10)
    assert batch["image"].shape == (3, 10, 10, 3)
    assert (batch["image"][0, :4, :8] == [10, 20, 30]).all()
    assert batch["image"][0].sum() == 4 * 8 * 60
    assert batch["image"][1].sum() == 6 * 2 * 60
    assert not batch["image"][2].any()
    assert batch["index"].tolist() == [0, 1, -1]


def test_a_batch_of_one():
    batch = stack_examples([reader()(1)], canvas_px=6)
    assert {name: values.shape[0] for name, values in batch.items()} == dict.fromkeys(batch, 1)
    assert batch["size"].tolist() == [[6, 2]]


def test_filename():
    assert SPLIT.filename(np.int32(1)) == "empty.jpg"


def test_a_split_has_labels_if_any_image_has_an_object():
    assert SPLIT.has_labels()
    assert not dataclasses.replace(SPLIT, source=RECORDS[1:]).has_labels()


class CountingRecords(list):
    """How often each was read."""

    def __init__(self, records):
        super().__init__(records)
        self.read = [0] * len(records)

    def __getitem__(self, index):
        self.read[index] += 1
        return super().__getitem__(index)

    def __iter__(self):
        return (self[index] for index in range(len(self)))


def test_names_and_labels_read_every_record_once():
    """A record of prepared data comes with its image."""
    records = CountingRecords(RECORDS)
    split = dataclasses.replace(SPLIT, source=records)
    assert split.filenames == ("a.jpg", "empty.jpg", "damaged.jpg")
    assert split.filenames[1] == split.filename(1)
    records.read[1] -= 1
    for difficult, label in (("positive", [1, 0, 1]), ("negative", [1, 0, 0])):
        assert split.labels(difficult)[0].tolist() == label
    assert records.read == [1, 1, 1]


def test_labels_of_a_split_count_difficult_objects_and_decode_no_image():
    labels = SPLIT.labels()
    assert labels.dtype == np.int8
    assert labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]
