import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from oass_jax import default_config
from oass_jax.method import keypoint

max_peak = functools.partial(keypoint.max_peak, classes="labelled", offset_cells=0.0)


def inputs(maps, label, valid=None, boxes=(), box_label=()):
    """One example: `maps` [K, h, w] nested lists, boxes as ymin, xmin, ymax, xmax."""
    cam = jnp.moveaxis(jnp.array(maps, jnp.float32), 0, -1)[None]
    valid = jnp.ones(cam.shape[:3], bool) if valid is None else jnp.array([valid])
    boxes = jnp.array(boxes, jnp.float32).reshape(1, -1, 4)
    box_label = jnp.array(box_label, jnp.int32).reshape(1, -1)
    rng = jax.random.PRNGKey(0)[None]
    return keypoint.KeypointInputs(cam, jnp.array([label]), valid, boxes, box_label, rng)


def pair(values, valid=None):
    """One (image, class) pair."""
    return inputs([values], [1], valid)


def topk(example, k=5, window_cells=3, offset_cells=0.0):
    return keypoint.channel_topk(example, k=k, window_cells=window_cells, offset_cells=offset_cells)


def topk_weighted(example, k=5, window_cells=3, offset_cells=0.0, literal_eq=False):
    return keypoint.channel_topk_weighted(
        example, k=k, window_cells=window_cells, offset_cells=offset_cells, literal_eq=literal_eq
    )


channel_peak = functools.partial(keypoint.channel_peak, offset_cells=0.0)
literal = functools.partial(topk_weighted, literal_eq=True)  # of one maximum no other point
CHANNEL_WISE = pytest.mark.parametrize("point_fn", [channel_peak, topk, topk_weighted, literal])


CAT = [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 3], [0, 0, 0, 0]]
DOG = [[0, 0, 2, 0], [0, 0, 0, 0], [5, 0, 0, 0], [0, 0, 0, 0]]


def test_center_is_the_middle_of_even_and_odd_maps():
    assert_array_equal(keypoint.center(inputs(np.ones((2, 4, 6)), [1, 0])), [[2, 3]])
    point = keypoint.center(inputs(np.ones((2, 5, 7)), [1, 0]))
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
    point = keypoint.max_peak(inputs([CAT, DOG], label), classes=classes, offset_cells=0.0)
    assert_array_equal(point, [expected])


def test_max_takes_the_first_of_equal_peaks():
    tie = [[0, 0, 0], [0, 0, 7], [7, 0, 0]]
    assert_array_equal(max_peak(inputs([tie], [1])), [[1, 2]])


def draws(valid, num=4000, offset_cells=0.0):
    """Points of many images alike."""
    valid = jnp.broadcast_to(jnp.array(valid), (num, *np.shape(valid)))
    example = keypoint.KeypointInputs(
        cam=jnp.ones((*valid.shape, 2)),
        label=jnp.ones((num, 2)),
        valid=valid,
        boxes=jnp.zeros((num, 1, 4)),
        box_label=jnp.zeros((num, 1), jnp.int32),
        rng=jax.random.split(jax.random.PRNGKey(0), num),
    )
    return np.asarray(keypoint.random_cell(example, offset_cells=offset_cells))


def test_random_takes_every_valid_cell_as_often():
    valid = np.array([[1, 0, 1], [0, 1, 1]], bool)
    cells, counts = np.unique(draws(valid), axis=0, return_counts=True)
    assert_array_equal(cells, np.argwhere(valid))
    assert_allclose(counts / 4000, 0.25, atol=0.03)
    assert_array_equal(draws(valid, num=8, offset_cells=0.5), draws(valid, num=8) + 0.5)
    assert_array_equal(draws(np.zeros((4, 6), bool), num=3), [[2, 3]] * 3)


def test_max_ignores_a_peak_in_the_padding():
    valid = np.ones((4, 4), bool)
    valid[:, 3] = False
    assert_array_equal(max_peak(inputs([CAT], [1], valid)), [[1, 1]])


def test_max_of_negative_maps_is_their_peak():
    low = -np.ones((4, 6))
    low[3, 1] = -0.5
    assert_array_equal(max_peak(inputs([low], [1])), [[3, 1]])


def test_max_without_anything_to_choose_from_is_the_center():
    nowhere = np.zeros((4, 6), bool)
    assert_array_equal(max_peak(inputs([np.ones((4, 6))], [1], nowhere)), [[2, 3]])
    assert_array_equal(max_peak(inputs([np.ones((4, 6))], [0])), [[2, 3]])


# Local maxima 9 at (0, 0), 5 at (0, 4), 3 at (3, 2), 1 at (5, 5); 8 and 4 are neighbours of higher.
PEAKS = [
    [9, 8, 0, 0, 5, 4],
    [0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0],
    [0, 0, 3, 0, 0, 0],
    [0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 1],
]


def test_channel_peak_by_hand():
    assert_array_equal(channel_peak(pair(np.roll(PEAKS, 2, axis=0))), [[2, 0]])
    assert_array_equal(keypoint.channel_peak(pair(CAT), offset_cells=0.5), [[2.5, 3.5]])


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (1, [0, 0]),
        (2, [0, 2]),
        (3, [1, 2]),  # (0 + 0 + 3) / 3 and (0 + 4 + 2) / 3
        (4, [2, 11 / 4]),
        (5, [2, 11 / 4]),  # there are only four
    ],
)
def test_topk_by_hand(k, expected):
    assert_allclose(topk(pair(PEAKS), k=k), [expected], rtol=1e-6)


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (1, [0, 0]),
        (2, [0, 5 * 4 / 14]),
        (3, [3 * 3 / 17, (5 * 4 + 3 * 2) / 17]),
        (5, [(3 * 3 + 1 * 5) / 18, (5 * 4 + 3 * 2 + 1 * 5) / 18]),
    ],
)
def test_weighted_topk_by_hand(k, expected):
    assert_allclose(topk_weighted(pair(PEAKS), k=k), [expected], rtol=1e-6)
    literal = topk_weighted(pair(PEAKS), k=k, literal_eq=True)
    assert_allclose(literal, [np.array(expected) / min(k, 4)], rtol=1e-6)
    in_the_middle = topk_weighted(pair(PEAKS), k=k, literal_eq=True, offset_cells=0.5)
    assert_allclose(in_the_middle, literal + 0.5, rtol=1e-6)


def test_topk_window_decides_what_is_a_local_maximum():
    assert_allclose(topk(pair([[3, 1, 2, 0, 0]]), window_cells=3), [[0, 1]])
    assert_allclose(topk(pair([[3, 1, 2, 0, 0]]), window_cells=5), [[0, 0]])
    assert_allclose(topk(pair([[3, 1, 2, 0, 0]]), window_cells=1), [[0, 1]])  # 0, 1 and 2


def test_topk_counts_equal_neighbours_and_takes_the_first_of_equal_peaks():
    assert_allclose(topk(pair([[7, 7, 0, 0, 7]]), k=5), [[0, 5 / 3]])
    assert_allclose(topk(pair([[7, 7, 0, 0, 7]]), k=2), [[0, 0.5]])


def test_topk_offset_is_added_once():
    assert_allclose(topk(pair(PEAKS), k=3, offset_cells=0.5), [[1.5, 2.5]])
    assert_allclose(topk_weighted(pair(PEAKS), k=1, offset_cells=0.5), [[0.5, 0.5]])


@CHANNEL_WISE
def test_one_maximum_is_the_point(point_fn):
    values = np.zeros((4, 5))
    values[2, 3] = 0.1
    assert_allclose(point_fn(pair(values)), [[2, 3]], rtol=1e-6)


@CHANNEL_WISE
def test_no_positive_maximum_leaves_the_peak(point_fn):
    low = -np.ones((4, 6))
    low[3, 1] = -0.5
    assert_allclose(point_fn(pair(low)), [[3, 1]])


@CHANNEL_WISE
@pytest.mark.parametrize("corner", [(0, 0), (0, 5), (3, 0), (3, 5)])
def test_a_peak_in_each_corner(corner, point_fn):
    values = np.zeros((4, 6))
    values[corner] = 2.0
    point = point_fn(pair(values))
    assert_allclose(point, [corner])
    cut = keypoint.cut_position(point, (4, 6), 1)
    assert_array_equal(cut, [[max(1, corner[0]), max(1, corner[1])]])


@CHANNEL_WISE
def test_a_peak_in_the_padding_does_not_count_nor_hide_its_neighbour(point_fn):
    values = np.array([[0, 0, 4, 9], [0, 0, 0, 0]])
    valid = np.array([[1, 1, 1, 0], [1, 1, 1, 0]], bool)
    assert_allclose(point_fn(pair(values, valid)), [[0, 2]])


@CHANNEL_WISE
def test_without_a_valid_cell_the_point_is_the_center(point_fn):
    assert_allclose(point_fn(pair(np.ones((4, 6)), np.zeros((4, 6), bool))), [[2, 3]])


def test_box_center_by_hand():
    # Centres (0.25, 0.5) and (0.75, 1.0) of the canvas: 4 x 8 cells.
    boxes = [[0, 0.25, 0.5, 0.75], [0.5, 1, 1, 1], [0, 0, 0.1, 0.1], [0, 0, 0, 0]]
    example = inputs(np.zeros((1, 4, 8)), [1], boxes=boxes[:1], box_label=[0])
    assert_allclose(keypoint.box_center(example), [[1, 4]])
    # Two boxes of the class, one of another class, an unused slot.
    example = inputs(np.zeros((1, 4, 8)), [1], boxes=boxes, box_label=[0, 0, -1, -1])
    assert_allclose(keypoint.box_center(example), [[2, 6]])


def test_box_center_without_a_box_is_the_center():
    example = inputs(np.zeros((1, 4, 8)), [1], boxes=[[0, 0, 1, 0.1]], box_label=[-1])
    assert_allclose(keypoint.box_center(example), [[2, 4]])


def test_examples_are_independent():
    examples = [pair(CAT), pair(DOG), pair(-np.ones((4, 4)))]
    together = jax.tree.map(lambda *x: jnp.concatenate(x), *examples)
    for point_fn in (channel_peak, topk, topk_weighted):
        alone = np.concatenate([point_fn(example) for example in examples])
        assert_allclose(point_fn(together), alone)


def test_offset_moves_the_cut_to_the_next_corner():
    point = keypoint.max_peak(inputs([CAT], [1]), classes="labelled", offset_cells=0.5)
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
        compiled = jax.jit(keypoint.bind(name, default_config.get_config().keypoint).keypoint_fn)
        for seed in range(3):
            maps = np.random.default_rng(seed).normal(size=(2, 4, 4))
            assert compiled(inputs(maps, [1, 0])).shape == (1, 2)
        assert compiled._cache_size() == 1


def test_config_names_every_strategy():
    assert set(default_config.CHOICES["keypoint.strategy"]) == set(keypoint.KEYPOINTS)


def test_the_strategies_of_single_classes_are_those_the_paper_marks_so():
    channel_wise = {name for name, each in keypoint.KEYPOINTS.items() if each.channel_wise}
    assert channel_wise == {"cmax", "ctopk", "ctopk_w", "gt_bbox"}
