"""An instances JSON as COCO writes it, and what is wrong with one."""

import copy
import json

import numpy as np
import pytest
from PIL import Image

from oass_jax.data import pipeline
from oass_jax.data.sources.image_list import ListError
from oass_jax.errors import UserError

INSTANCES = {
    "images": [
        {"id": 7, "file_name": "a.png", "height": 6, "width": 8},
        {"id": 3, "file_name": "b.png", "height": 7, "width": 8},
        {"id": 5, "file_name": "c.png", "height": 8, "width": 8},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 18, "bbox": [2, 3, 4, 3], "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 8, 6.5], "iscrowd": 1},
        {"id": 3, "image_id": 3, "category_id": 18, "bbox": [0, 0, 1, 0]},
        {"id": 4, "image_id": 3, "category_id": 18, "bbox": [0, 0, 1, 7], "iscrowd": 1},
    ],
    "categories": [
        {"id": 18, "name": "dog"},
        {"id": 1, "name": "person"},
        {"id": 90, "name": "toothbrush"},
    ],
}


@pytest.fixture
def folder(tmp_path, sample_images):
    sample_images(tmp_path / "images", ["a.png", "b.png", "c.png"])
    return tmp_path


def opened(folder, instances=INSTANCES, split="all"):
    path = folder / "instances.json"
    path.write_text(instances if isinstance(instances, str) else json.dumps(instances))
    location = pipeline.Location(path=path, image_dir=folder / "images", val_fraction=0.34)
    return pipeline.open_split("coco", split, location)


def test_boxes_crowds_and_images_without_objects(folder):
    split = opened(folder)
    assert split.class_names == ("person", "dog", "toothbrush")  # by their ids
    assert split.has_boxes
    assert [split.filename(i) for i in range(3)] == ["a.png", "b.png", "c.png"]
    assert split.labels().tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    options = pipeline.ReadOptions(
        canvas_px=8, max_boxes=2, difficult="ignore", num_workers=0, num_threads=0, cache=False
    )
    share = {"batch_size": 3, "process_index": 0, "process_count": 1}
    (batch,) = pipeline.eval_batches(split, options, **share)
    assert batch["label"].tolist() == [[-1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert batch["box_label"].tolist() == [[1, 0], [1, 1], [-1, -1]]
    np.testing.assert_allclose(batch["boxes"][0], [[0.5, 0.25, 1, 0.75], [0, 0, 1, 1]])
    assert any("1 of 3 images have no label" in note for note in split.notes)
    assert any("no positive of 1 classes: toothbrush" in note for note in split.notes)
    assert {len(opened(folder, split=name)) for name in ("train", "val")} == {2, 1}


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((60, 80), [0, 0, 0.25, 1]),  # of the stored pixels: the left quarter is above
        ((80, 60), [0, 0, 1, 0.25]),  # of the upright image
    ],
)
def test_boxes_of_a_photograph_that_lies_on_its_side(folder, size, box):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 60)).save(folder / "images" / "side.jpg", exif=exif)
    height, width = size
    instances = INSTANCES | {
        "images": [{"id": 1, "file_name": "side.jpg", "height": height, "width": width}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, width / 4, height]}],
    }
    split = opened(folder, instances)
    np.testing.assert_allclose(split.boxes(split.source[0]), [box])
    options = pipeline.ReadOptions(
        canvas_px=80, max_boxes=1, difficult="ignore", num_workers=0, num_threads=0, cache=False
    )
    share = {"batch_size": 1, "process_index": 0, "process_count": 1}
    (batch,) = pipeline.eval_batches(split, options, **share)
    assert batch["size"].tolist() == [[80, 60]]
    np.testing.assert_allclose(batch["boxes"][0], [box])


def change(part, number, **fields):
    instances = copy.deepcopy(INSTANCES)
    instances[part][number] |= fields
    return instances


def without(part, number=None, field=None):
    instances = copy.deepcopy(INSTANCES)
    if number is None:
        del instances[part]
    else:
        del instances[part][number][field]
    return instances


@pytest.mark.parametrize(
    ("instances", "sentence"),
    [
        ("{", r"instances\.json is not JSON"),
        ("[]", "is no instances JSON: .* has no list of images"),
        ("[" * 100_000, r"instances\.json is not JSON"),
        (without("annotations"), "has no list of annotations"),
        (INSTANCES | {"categories": [3]}, "has no list of categories"),
        (INSTANCES | {"images": []}, r"annotations\[0\]: there is no image 7"),
        (INSTANCES | {"images": [], "annotations": []}, "holds no image"),
        (without("categories", 0, "name"), "every category needs an id, a number, and a name"),
        (change("categories", 0, id="x"), "every category needs an id, a number, and a name"),
        (change("categories", 0, name="person"), "has two categories of one id or name"),
        (without("images", 1, "id"), r"images\[1\] has no id"),
        (change("images", 1, id=7), "image 7 is there twice"),
        (without("images", 2, "file_name"), "image 5 has no file_name"),
        (change("images", 2, file_name=None), "image 5 has no file_name"),
        (change("images", 2, file_name="x.png"), r"image 5: there is no image .*x\.png"),
        (change("images", 2, file_name="a.png"), r"image 5: a\.png is listed twice"),
        (without("images", 0, "width"), r"annotations\[0\]: it needs a bbox of four numbers, and"),
        (change("images", 0, height=0), r"annotations\[0\]: it needs a bbox of four numbers, and"),
        (without("annotations", 1, "category_id"), r"annotations\[1\] has no 'category_id'"),
        (change("annotations", 1, category_id=2), r"annotations\[1\]: there is no category 2"),
        (change("annotations", 1, category_id=[2]), r"annotations\[1\]: unhashable type"),
        (change("annotations", 1, image_id=2), r"annotations\[1\]: there is no image 2"),
        (change("annotations", 1, bbox=[1, 2, 3]), r"annotations\[1\]: it needs a bbox of four"),
        (change("annotations", 1, bbox="1234"), r"annotations\[1\]: it needs a bbox of four"),
        (change("annotations", 1, bbox=[0, 0, 10**400, 3]), r"annotations\[1\]: int too large"),
        (change("annotations", 1, iscrowd="no"), "iscrowd is 'no', neither 0 nor 1"),
        (change("images", 1, id="3"), r"annotations\[2\]: there is no image 3"),
        (change("images", 2, file_name="b\udce4.png"), r"image 5: the name 'b\\udce4\.png' is not"),
        (change("annotations", 1, bbox=[0, 0, -1, 3]), "is not inside the 8x6 image"),
        (change("annotations", 1, bbox=[0, 0, 80, 3]), "is not inside the 8x6 image"),
        (change("annotations", 1, bbox=[float("nan"), 0, 8, 3]), "is not inside the 8x6 image"),
        (change("annotations", 1, bbox=[1, float("nan"), 5, 5]), "is not inside the 8x6 image"),
    ],
)
def test_a_mistake_names_the_entry(instances, sentence, folder):
    with pytest.raises(UserError, match=sentence) as error:
        opened(folder, instances)
    assert "\n" not in str(error.value)


def test_all_mistakes_are_kept(folder):
    instances = change("annotations", 0, category_id=5)
    instances["annotations"][3]["image_id"] = 9
    with pytest.raises(ListError) as error:
        opened(folder, instances)
    assert len(error.value.problems) == 2
