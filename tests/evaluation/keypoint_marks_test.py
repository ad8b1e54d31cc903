import numpy as np
import pytest

from oass_jax.evaluation import keypoint_marks
from oass_jax.evaluation.keypoint_marks import Marks
from oass_jax.evaluation.result import Result

FIELDS = {
    "classes": "labelled",
    "offset_cells": 0.0,
    "k": 2,
    "window_cells": 3,
    "literal_eq": False,
    "margin_cells": 1,
}


@pytest.fixture
def result():
    """4 x 6 cells of 10 px; the cat's map peaks at (1, 1) and, lower, at (1, 4), the dog's at 3, 3.

    The image ends after 3.6 rows, so that the last one, where the dog is, is the image's, too.
    """
    maps = np.full((3, 4, 6), -1.0, np.float32)
    maps[0, 1, 1], maps[0, 1, 4], maps[1, 3, 3] = 3.0, 1.0, 2.0
    return Result(
        name="x.png",
        probability={"cat": 0.9, "dog": 0.8, "cow": 0.1},
        labels=("cat", "dog"),
        size=(36, 60),
        maps=maps,
        cell_px=(10.0, 10.0),
        image=np.zeros((36, 60, 3), np.uint8),
    )


def compare(result, labels=("cat", "dog"), **fields):
    boxes = np.array([[0.0, 0.0, 0.5, 0.5], [0.25, 0.5, 0.75, 1.0]])
    return keypoint_marks.compare(
        result, labels, FIELDS | fields, boxes=boxes, box_label=np.array([0, 1])
    )


def test_each_strategy_finds_what_its_docstring_says(result):
    cats, dogs = ((10.0, 10.0), (10.0, 40.0)), ((30.0, 30.0),)
    assert compare(result) == [
        Marks("max", "", (10, 10), (10, 10), (cats[0], dogs[0])),
        Marks("cmax", "cat", (10, 10), (10, 10), cats),
        Marks("cmax", "dog", (30, 30), (30, 30), dogs),
        Marks("ctopk", "cat", (10, 25), (10, 30), cats),
        Marks("ctopk", "dog", (30, 30), (30, 30), dogs),
        # A quarter of the way from the higher to the lower one.
        Marks("ctopk_w", "cat", (10, 17.5), (10, 20), cats),
        Marks("ctopk_w", "dog", (30, 30), (30, 30), dogs),
        Marks("gt_bbox", "cat", pytest.approx((9, 15)), (10, 20), ((9, 15),)),
        Marks("gt_bbox", "dog", pytest.approx((18, 45)), (20, 50), ((18, 45),)),
    ]


def test_local_maxima_are_drawn_where_keypoints_are_taken_from(result):
    _, cmax, *_ = compare(result, offset_cells=0.5)
    assert cmax.keypoint_yx == cmax.sources_yx[0] == (15, 15)


def test_keypoints_of_all_classes_come_from_the_maps_of_all(result):
    result.maps[2, 2, 2] = 9.0  # of the cow, which is no label
    first, *_ = compare(result)
    assert first.keypoint_yx == (10, 10)
    first, *_ = compare(result, classes="all")
    assert first.keypoint_yx == (20, 20)
    assert (20.0, 20.0) in first.sources_yx


def test_without_boxes_there_is_no_gt_bbox(result):
    found = keypoint_marks.compare(result, ["cat"], FIELDS, boxes=None, box_label=None)
    assert [one.strategy for one in found] == ["max", "cmax", "ctopk", "ctopk_w"]
