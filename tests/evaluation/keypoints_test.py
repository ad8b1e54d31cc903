import jax.numpy as jnp
import numpy as np
import pytest

from oass_jax.evaluation import keypoints
from oass_jax.evaluation.keypoints import Cut
from oass_jax.image import geometry
from oass_jax.method import keypoint

FIELDS = {
    "classes": "labelled",
    "offset_cells": 0.0,
    "k": 2,
    "window_cells": 3,
    "literal_eq": False,
}
# Of 5 x 4 cells the image covers the centres of the first 4 rows and of 3 columns.
SIZE = (3.6, 2.7)


def find(name, maps, label=(1, 0, 1), *, margin_cells=1, **options):
    strategy = keypoint.bind(name, FIELDS)
    return keypoints.find_cuts(
        maps, SIZE, np.array(label), strategy=strategy, margin_cells=margin_cells, **options
    )


@pytest.fixture
def maps():
    """Peaks of class 0 at (2, 1) and 2 at (0, 1); class 1 has no label; more in the padding."""
    values = np.zeros((5, 4, 3), np.float32)
    values[2, 1, 0] = 3.0
    values[0, 1, 2] = 2.0
    values[1, 2, 1] = 5.0
    values[4] = values[:, 3] = 9.0
    return values


def test_max_is_the_peak_of_the_labels_on_the_image(maps):
    assert find("max", maps) == [Cut(None, (2.0, 1.0), (2, 1))]


def test_the_cut_is_moved_from_the_border_where_there_is_room(maps):
    assert find("max", maps, (0, 0, 1)) == [Cut(None, (0.0, 1.0), (1, 1))]
    assert find("max", maps, (0, 0, 1), margin_cells=9) == [Cut(None, (0.0, 1.0), (1, 1))]


def test_a_channel_wise_strategy_cuts_for_each_label(maps):
    assert find("cmax", maps) == [Cut(0, (2.0, 1.0), (2, 1)), Cut(2, (0.0, 1.0), (1, 1))]
    assert find("cmax", maps, (0, 0, 0)) == []


def test_an_image_without_labels_is_cut_in_the_middle(maps):
    assert find("max", maps, (0, 0, 0)) == find("center", maps) == [Cut(None, (2.0, 1.5), (2, 2))]


def test_boxes_are_those_of_the_image_not_of_its_cells(maps):
    boxes = np.array([[0, 0, 1, 1], [0, 0, 0.5, 0.5]], np.float32)
    first, second = find("gt_bbox", maps, boxes=boxes, box_label=[0, 2])
    assert first.keypoint_yx == pytest.approx((1.8, 1.35))
    assert second.keypoint_yx == pytest.approx((0.9, 0.675))
    (without_box,) = find("gt_bbox", maps, (0, 1, 0), boxes=boxes, box_label=[0, 2])
    assert without_box == Cut(1, (2.0, 1.5), (2, 2))


def test_random_cells_lie_on_the_image_and_are_those_of_the_seed(maps):
    drawn = [find("random", maps, seed=seed) for seed in range(40)]
    assert {cut.keypoint_yx[0] for (cut,) in drawn} == {0, 1, 2, 3}
    assert {cut.keypoint_yx[1] for (cut,) in drawn} == {0, 1, 2}
    assert find("random", maps, seed=3) == drawn[3]


def test_what_is_less_than_two_cells_wide_cannot_be_cut(maps):
    strategy = keypoint.bind("max", FIELDS)
    label = np.array([1, 0, 0])
    assert keypoints.find_cuts(maps, (3, 1.4), label, strategy=strategy, margin_cells=1) == []


@pytest.mark.parametrize("pixels", [*range(8, 100), 168, 184])
def test_the_cells_on_an_image_are_those_that_training_may_choose(pixels):
    inside = np.asarray(geometry.centres_inside(jnp.array([0, pixels]), 16, 16))
    found = keypoints.on_image(np.zeros((16, 16, 1)), (pixels / 16, pixels / 16))
    assert found.shape[:2] == (inside.sum(), inside.sum())
