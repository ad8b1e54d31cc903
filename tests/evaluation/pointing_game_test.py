import numpy as np
import pytest

from oass_jax.evaluation import pointing_game


@pytest.mark.parametrize(
    ("peak_yx", "hit"),
    [((2, 3), True), ((4, 5), True), ((1, 3), False), ((2, 6), False), ((7, 7), True)],
)
def test_a_map_hits_with_its_peak_in_a_box_of_its_class(peak_yx, hit):
    """Of 8 x 8 pixels: rows 2 to 4 with columns 3 to 5, or the last pixel; another class's all."""
    boxes = np.array([[2, 3, 5, 6], [7, 7, 8, 8], [0, 0, 8, 8]]) / 8
    maps = np.zeros((1, 8, 8), np.float32)
    maps[0][peak_yx] = 0.5
    counts = pointing_game.count_hits(
        maps, np.array([1]), boxes, np.array([1, 1, 0]), num_classes=3
    )
    np.testing.assert_array_equal(counts, [[0, 0], [hit, not hit], [0, 0]])


def test_an_empty_map_misses_and_one_without_a_box_does_not_count():
    boxes = np.array([[0.0, 0.0, 1.0, 1.0]])
    counts = pointing_game.count_hits(
        np.zeros((2, 4, 4), np.float32), np.array([0, 2]), boxes, np.array([0]), num_classes=3
    )
    np.testing.assert_array_equal(counts, [[0, 1], [0, 0], [0, 0]])


def test_accuracy_is_of_each_class():
    counts = np.array([[3, 1], [0, 0], [0, 2]])
    np.testing.assert_array_equal(pointing_game.accuracy(counts), [75.0, np.nan, 0.0])
