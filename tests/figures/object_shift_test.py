import numpy as np
import pytest

from oass_jax.data.example import Split
from oass_jax.errors import UserError
from oass_jax.figures import object_shift

# Centres at (0.5, 0.75), (0.5, 0.25) and, of the second class, (0, 0.5) of the image.
BOXES = np.array([[0.25, 0.5, 0.75, 1.0], [0.0, 0.25, 1.0, 0.25], [0.0, 0.0, 0.0, 1.0]])


def record(boxes, labels):
    return {"objects": {"bbox": boxes, "label": labels, "is_difficult": [False] * len(labels)}}


def split(records, has_boxes=True):
    names = ("cat", "dog", "$cow")
    return Split("own", "1", "train", names, {}, records, has_boxes=has_boxes)


def test_shifts_are_those_of_an_image_of_512_px():
    shift = object_shift.of_boxes(BOXES, np.array([0, 0, 1]), ("cat", "dog"))
    assert shift.count.tolist() == [2, 1]
    # 0.25 of 512 to the right and to the left: 128 px each time, and 128² of variance.
    assert shift.rows() == [
        ["cat", 2, 128.0, 0.0, 0.0, 0.0, 128.0**2],
        ["dog", 1, 0.0, 0.0, 256.0, 0.0, 0.0],
    ]
    assert shift.overall_yx.tolist() == pytest.approx([256 / 3, 256 / 3])


def test_spread_is_of_the_distance_and_variance_of_the_place():
    boxes = np.array([[0.5, 0.5, 0.5, 0.5], [0.25, 0.75, 0.25, 0.75]])
    shift = object_shift.of_boxes(boxes, np.array([0, 0]), ("cat",))
    # 0 and 128 px in both directions: mean 64, deviation 64.
    assert shift.rows() == [["cat", 2, 64.0, 64.0, 64.0, 64.0, 2 * 64.0**2]]


def test_images_without_objects_and_classes_without_any_are_in_no_mean():
    shift = object_shift.of_split(split([record(BOXES[:2], [0, 0]), record([], [])]))
    assert shift.rows()[0] == ["cat", 2, 128.0, 0.0, 0.0, 0.0, 128.0**2]
    name, count, *numbers = shift.rows()[2]
    assert (name, count) == ("$cow", 0)
    assert np.isnan(numbers).all()


@pytest.mark.parametrize("records", [[record([], [])], [record(BOXES[:1], [0])]])
def test_data_without_boxes_is_refused(records):
    with pytest.raises(UserError, match="own train has no boxes"):
        object_shift.of_split(split(records, has_boxes=not len(records[0]["objects"]["label"])))
