import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from oass_jax.image import geometry

KERNELS = ("linear", "cubic")

resample = jax.jit(geometry.resample, static_argnames=("out_shape", "kernel", "antialias"))


def axis_weights(source, target, in_size, out_size, kernel="linear", antialias=True):
    """How much of each input pixel every output pixel takes: what comes of the identity."""
    one = jnp.array([0.0, 1.0])
    weights = resample(
        jnp.eye(in_size)[None, :, None],
        jnp.stack([jnp.array(source, jnp.float32), one])[None],
        jnp.stack([jnp.array(target, jnp.float32), one])[None],
        (out_size, 1),
        kernel=kernel,
        antialias=antialias,
    )
    return np.asarray(weights)[0, :, 0]


def test_whole_axis_at_its_own_size_is_the_identity():
    for kernel in KERNELS:
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


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("out_shape", [(7, 9), (20, 31)])
def test_window_equals_crop_then_resize(kernel, antialias, out_shape):
    image = np.random.default_rng(0).random((1, 24, 28, 3)).astype(np.float32)
    top, left, height, width = 5, 3, 13, 17
    crop = image[:, top : top + height, left : left + width]
    resize = jax.image.resize(
        crop, (1, *out_shape, 3), {"cubic": "bicubic"}.get(kernel, kernel), antialias=antialias
    )
    window = resample(
        image,
        jnp.array([[[top, height], [left, width]]]),
        jnp.array([[[0, out_shape[0]], [0, out_shape[1]]]]),
        out_shape,
        kernel=kernel,
        antialias=antialias,
    )
    assert_allclose(window, resize, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("antialias", [True, False])
def test_what_lies_outside_of_a_window_changes_nothing(kernel, antialias):
    image = np.random.default_rng(1).random((1, 12, 14, 2)).astype(np.float32)
    other = np.full_like(image, 1e6)
    other[:, 3:8, 5:6] = image[:, 3:8, 5:6]
    source, target = jnp.array([[[8, -5], [5, 1]]]), jnp.array([[[-3, 17], [2, 5]]])
    resample_fn = functools.partial(
        resample,
        source=source,
        target=target,
        out_shape=(10, 9),
        kernel=kernel,
        antialias=antialias,
    )
    np.testing.assert_array_equal(resample_fn(image), resample_fn(other))
    written = np.asarray(geometry.pixels_inside(target, (10, 9)))[..., None]
    assert ((resample_fn(image + 1.0) > 0) == written).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_divides_by_zero_and_the_gradient_is_that_of_weights_that_sum_to_one(kernel):
    """Windows of a single pixel, at ends of the image, whose target begins at a pixel's centre."""
    source = jnp.array([[[0, 1], [0, 1]], [[9, 1], [10, -1]], [[0, 10], [10, -10]]])
    target = jnp.array([[[0.5, 7], [-3, 4]], [[2.5, 1], [6, 9]], [[0.7, 8.9], [-20, 41]]])

    def total(images, antialias):
        return resample(images, source, target, (11, 8), kernel=kernel, antialias=antialias).sum()

    images = jnp.ones((3, 10, 10, 1))
    for antialias in (True, False):
        with jax.debug_nans(True):
            gradient = jax.grad(total)(images, antialias)
        written = geometry.pixels_inside(target, (11, 8)).sum(axis=(1, 2))
        assert_allclose(gradient.sum(axis=(1, 2, 3)), written, rtol=1e-4)


def test_windows_that_move_do_not_recompile():
    resample_fn = jax.jit(
        functools.partial(geometry.resample, out_shape=(6, 6), kernel="cubic", antialias=True)
    )
    for length in (2, 5, -8):
        window = jnp.array([[[8 if length < 0 else 0, length]] * 2])
        resample_fn(jnp.ones((1, 8, 8, 3)), window, jnp.array([[[1, 4], [0, abs(length)]]]))
    assert resample_fn._cache_size() == 1


@pytest.mark.parametrize("capability", [None, "7.5", "8.0", "9.0", "10.0", "gfx90a"])
def test_products_of_tf32_only_where_the_device_has_them(capability):
    device = types.SimpleNamespace()
    if capability is not None:
        device.compute_capability = capability
    has_tf32 = capability in ("8.0", "9.0", "10.0")
    chosen = geometry.float32_precision(device)
    assert chosen == (jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3 if has_tf32 else geometry.HIGHEST)


def test_precision_reaches_every_product():
    """On a GPU, for which this is only lowered."""
    resample = functools.partial(
        geometry.resample,
        out_shape=(6, 6),
        kernel="cubic",
        antialias=True,
        precision=jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3,
    )
    window = jnp.array([[[0.0, 4.0]] * 2])
    traced = jax.jit(resample).trace(jnp.ones((1, 8, 8, 3)), window, window)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) == 4
    of_pixels = [line for line in products if "8x3x" in line or "x6x3xf32" in line]
    assert of_pixels == [line for line in products if "num_primitive_operations = 3" in line]
    assert len(of_pixels) == 2


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
        written = [axis_weights((0, 4), window, 4, num_cells) for window in windows[:, axis]]
        assert_allclose(np.sum(written, axis=-1), inside.any(axis=2 - axis), atol=1e-6)
