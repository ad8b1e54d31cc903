import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from oass_jax.image import geometry


def axis_weights(source, target, in_size, out_size, kernel="linear", antialias=True):
    weights = geometry.axis_weights(
        jnp.array(source), jnp.array(target), in_size, out_size, kernel=kernel, antialias=antialias
    )
    return np.asarray(weights)


def test_whole_axis_at_its_own_size_is_the_identity():
    for kernel in geometry.KERNELS:
        assert_allclose(axis_weights((0, 5), (0, 5), 5, 5, kernel), np.eye(5), atol=1e-6)


def test_doubling_a_pair_of_pixels_by_hand():
    # Centres of the four outputs fall at -0.25, 0.25, 0.75 and 1.25 of the two inputs.
    expected = [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    assert_allclose(axis_weights((0, 2), (0, 4), 2, 4), expected, atol=1e-6)


def test_halving_averages_with_a_triangle_by_hand():
    # The triangle of width 4 around 1.0 weighs the centres 0.5, 1.5, 2.5 with 0.75, 0.75, 0.25.
    row = np.array([0.75, 0.75, 0.25, 0.0])
    weights = axis_weights((0, 4), (0, 2), 4, 2)
    assert_allclose(weights, [row / row.sum(), row[::-1] / row.sum()], atol=1e-6)
    assert_allclose(
        axis_weights((0, 4), (0, 2), 4, 2, antialias=False),
        [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]],
        atol=1e-6,
    )


def test_negative_length_reads_backwards():
    forward = axis_weights((1, 3), (0, 5), 6, 5, "cubic")
    backward = axis_weights((4, -3), (0, 5), 6, 5, "cubic")
    assert_allclose(backward, forward[::-1], atol=1e-6)


def test_target_outside_the_canvas_is_cropped_and_rest_is_zero():
    weights = axis_weights((0, 4), (-2, 4), 4, 6)
    expected = np.zeros((6, 4))
    expected[0, 2] = expected[1, 3] = 1.0
    assert_allclose(weights, expected, atol=1e-6)


@pytest.mark.parametrize("kernel", ["linear", "cubic"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("out_shape", [(7, 9), (20, 31)])
def test_window_equals_crop_then_resize(kernel, antialias, out_shape):
    image = np.random.default_rng(0).random((1, 24, 28, 3)).astype(np.float32)
    top, left, height, width = 5, 3, 13, 17
    crop = image[:, top : top + height, left : left + width]
    resize = jax.image.resize(
        crop, (1, *out_shape, 3), {"cubic": "bicubic"}.get(kernel, kernel), antialias=antialias
    )
    window = geometry.resample(
        image,
        jnp.array([[[top, height], [left, width]]]),
        jnp.array([[[0, out_shape[0]], [0, out_shape[1]]]]),
        out_shape,
        kernel=kernel,
        antialias=antialias,
    )
    assert_allclose(window, resize, atol=1e-5)


def test_pixels_inside_counts_cells_by_their_centre():
    window = jnp.array([[[8, 24], [-10, 20]]])
    inside = geometry.pixels_inside(window, (3, 2), stride=16)
    # Rows have centres 8, 24, 40 and columns 8, 24; inside are [8, 32) and [-10, 10).
    np.testing.assert_array_equal(inside[0], [[True, False], [True, False], [False, False]])


def test_a_window_holds_the_centre_it_begins_at_and_not_the_one_it_ends_at():
    # Centres 0.5, 1.5, ..., 5.5; windows that begin and end at one meet without a gap or overlap.
    windows = jnp.array([[[0.5, 2.0], [0.0, 1.5]], [[2.5, 3.0], [1.5, 3.0]]])
    inside = np.asarray(geometry.pixels_inside(windows, (6, 5)))
    np.testing.assert_array_equal(np.flatnonzero(inside[0].any(axis=1)), [0, 1])
    np.testing.assert_array_equal(np.flatnonzero(inside[0].any(axis=0)), [0])
    np.testing.assert_array_equal(np.flatnonzero(inside[1].any(axis=1)), [2, 3, 4])
    np.testing.assert_array_equal(np.flatnonzero(inside[1].any(axis=0)), [1, 2, 3])
    # What is written is what counts as inside.
    for axis, num_cells in ((0, 6), (1, 5)):
        written = axis_weights((0, 4), windows[:, axis], 4, num_cells).sum(axis=-1)
        assert_allclose(written, inside.any(axis=2 - axis), atol=1e-6)
