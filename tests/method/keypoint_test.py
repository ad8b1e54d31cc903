import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from configs import default
from oass_jax.method import keypoint

max_peak = functools.partial(keypoint.max_peak, classes="labelled", offset_cells=0.0)


def scene(maps, label, valid=None):
    """One image: `maps` [C, h, w] nested lists."""
    cam = jnp.moveaxis(jnp.array(maps, jnp.float32), 0, -1)[None]
    valid = jnp.ones(cam.shape[:3], bool) if valid is None else jnp.array([valid])
    return keypoint.Scene(cam, jnp.array([label]), valid)


CAT = [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 3], [0, 0, 0, 0]]
DOG = [[0, 0, 2, 0], [0, 0, 0, 0], [5, 0, 0, 0], [0, 0, 0, 0]]


def test_center_is_the_middle_of_even_and_odd_maps():
    assert_array_equal(keypoint.center(scene(np.ones((2, 4, 6)), [1, 0])), [[2, 3]])
    point = keypoint.center(scene(np.ones((2, 5, 7)), [1, 0]))
    assert_array_equal(keypoint.cut_position(point, (5, 7), 1), [[3, 4]])


@pytest.mark.parametrize(
    ("label", "classes", "expected"),
    [
        ([1, 0], "labelled", [2, 3]),  # the cat's peak, though the dog's map is higher
        ([0, 1], "labelled", [2, 0]),
        ([1, 1], "labelled", [2, 0]),  # the merged map's peak
        ([1, 0], "all", [2, 0]),
        ([1, -1], "labelled", [2, 3]),  # an ignored class is not a label
        ([0, 0], "labelled", [2, 2]),  # no label: the centre
    ],
)
def test_max_by_hand(label, classes, expected):
    point = keypoint.max_peak(scene([CAT, DOG], label), classes=classes, offset_cells=0.0)
    assert_array_equal(point, [expected])


def test_max_takes_the_first_of_equal_peaks():
    tie = [[0, 0, 0], [0, 0, 7], [7, 0, 0]]
    assert_array_equal(max_peak(scene([tie], [1])), [[1, 2]])


def test_max_ignores_a_peak_in_the_padding():
    valid = np.ones((4, 4), bool)
    valid[:, 3] = False
    assert_array_equal(max_peak(scene([CAT], [1], valid)), [[1, 1]])


def test_max_without_any_positive_value_is_the_center():
    assert_array_equal(max_peak(scene([-np.ones((4, 6))], [1])), [[2, 3]])
    assert_array_equal(max_peak(scene([np.zeros((4, 6))], [1])), [[2, 3]])
    nowhere = np.zeros((4, 6), bool)
    assert_array_equal(max_peak(scene([np.ones((4, 6))], [1], nowhere)), [[2, 3]])


def test_offset_moves_the_cut_to_the_next_corner():
    point = keypoint.max_peak(scene([CAT], [1]), classes="labelled", offset_cells=0.5)
    assert_array_equal(point, [[2.5, 3.5]])
    assert_array_equal(keypoint.cut_position(point, (8, 8), 1), [[3, 4]])


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ((0, 0), (4, 4)),
        ((0, 31), (4, 28)),
        ((31, 0), (28, 4)),
        ((31, 31), (28, 28)),
        ((5, 9), (5, 9)),
    ],
)
def test_cut_stays_away_from_all_four_corners(point, expected):
    assert_array_equal(keypoint.cut_position(jnp.array([point]), (32, 32), 4), [expected])


def test_every_strategy_compiles_once_for_all_maps():
    for name in keypoint.KEYPOINTS:
        compiled = jax.jit(keypoint.bind(name, default.get_config().keypoint))
        for seed in range(3):
            maps = np.random.default_rng(seed).normal(size=(2, 4, 4))
            assert compiled(scene(maps, [1, 0])).shape == (1, 2)
        assert compiled._cache_size() == 1


def test_config_names_every_strategy():
    assert set(default.CHOICES["keypoint.strategy"]) == set(keypoint.KEYPOINTS)
