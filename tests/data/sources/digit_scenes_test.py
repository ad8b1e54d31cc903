import io

import numpy as np
import pytest
from PIL import Image

from oass_jax.data import pipeline
from oass_jax.data.sources import digit_scenes as ds
from tests.commands import prepare_digits


@pytest.fixture(scope="module")
def digits():
    return ds.handwriting("train")


@pytest.fixture(scope="module")
def scenes(digits):
    return [ds.compose_scene(ds.scene_rng("train", i), *digits) for i in range(300)]


def test_no_handwriting_is_in_both_splits():
    train, val = (ds.handwriting(split) for split in ("train", "val"))
    seen = {digit.tobytes() for digit in train[0]}
    assert not any(digit.tobytes() in seen for digit in val[0])
    assert len(train[0]) + len(val[0]) == 1_797
    for _, classes in (train, val):
        assert np.bincount(classes).min() > 0.07 * len(classes)


def test_a_scene_depends_on_its_number_alone(digits, scenes):
    again = ds.compose_scene(ds.scene_rng("train", 7), *digits)
    np.testing.assert_array_equal(again.image, scenes[7].image)
    np.testing.assert_array_equal(again.mask, scenes[7].mask)
    other = ds.compose_scene(ds.scene_rng("val", 7), *digits)
    assert not np.array_equal(other.image, scenes[7].image)


def test_one_to_four_digits_of_every_class_off_centre(scenes):
    counts = np.bincount([len(scene.labels) for scene in scenes], minlength=5)
    assert counts[0] == 0
    assert counts[1:5].min() > 0.1 * len(scenes)
    assert len(counts) == 5
    classes = np.bincount(np.concatenate([scene.labels for scene in scenes]), minlength=10)
    assert classes.min() > 0.05 * classes.sum()
    boxes = np.concatenate([scene.boxes_px for scene in scenes])
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert np.median(np.abs(centres - 48).max(axis=1)) > 15
    heights = boxes[:, 2] - boxes[:, 0]
    assert heights.min() <= 22
    assert heights.max() >= 40


def test_boxes_hold_their_digit_and_every_digit_is_seen(scenes):
    for scene in scenes:
        for (ymin, xmin, ymax, xmax), label in zip(scene.boxes_px, scene.labels, strict=True):
            assert 0 <= ymin < ymax <= 96
            assert 0 <= xmin < xmax <= 96
            inside = scene.mask[ymin:ymax, xmin:xmax] == label + 1
            assert inside.mean() > 0.15
        outside = scene.mask.copy()
        for ymin, xmin, ymax, xmax in scene.boxes_px:
            outside[ymin:ymax, xmin:xmax] = 0
        assert not outside.any()


def test_overlap_by_hand():
    a, b = np.array([0, 0, 10, 10]), np.array([5, 5, 10, 25])
    assert ds._overlap(a, b) == pytest.approx(25 / 100)
    assert ds._overlap(a, np.array([10, 0, 20, 10])) == 0


def test_digits_are_lighter_and_darker_than_the_background(scenes):
    lighter = []
    for scene in scenes:
        gray = scene.image.mean(axis=-1)
        if (scene.mask > 0).any():
            lighter.append(gray[scene.mask > 0].mean() > gray[scene.mask == 0].mean())
    assert 0.3 < np.mean(lighter) < 0.7


def test_the_data_set_is_made_of_its_scenes(tmp_path):
    location = pipeline.Location(data_dir=prepare_digits(tmp_path))
    train = pipeline.open_split("digit_scenes", "train", location)
    assert ds._NUM_SCENES == {"train": 4_000, "val": 1_000}
    assert len(train) == 48  # the first of them are enough here
    assert len(pipeline.open_split("digit_scenes", "val", location)) == 96
    assert train.class_names[3] == "three"
    record = train.source[5]
    image = np.asarray(Image.open(io.BytesIO(record["image"])))
    mask = np.asarray(Image.open(io.BytesIO(record["segmentation_mask"])))
    scene = ds.compose_scene(ds.scene_rng("train", 5), *ds.handwriting("train"))
    assert np.abs(image.astype(int) - scene.image).mean() < 5
    np.testing.assert_array_equal(mask, scene.mask)
    np.testing.assert_allclose(record["objects"]["bbox"], scene.boxes_px / 96, rtol=1e-6)
    assert sorted(set(mask.ravel()) - {0}) == [label + 1 for label in record["labels"]]
