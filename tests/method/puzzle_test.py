import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

from oass_jax.method import puzzle

STRIDE = 8
cut_jit = jax.jit(puzzle.cut, static_argnames="resize")
tile_jit = jax.jit(puzzle.tile, static_argnums=2)


@functools.partial(jax.jit, static_argnames="resize")
def cut_then_tile(maps, cut, *, resize=True):
    return puzzle.tile(puzzle.cut(maps, cut, resize=resize), cut, maps.shape[1:3])


def legal_cuts(height, width, margin):
    return list(
        itertools.product(range(margin, height - margin + 1), range(margin, width - margin + 1))
    )


def test_cut_equals_slicing_and_resizing_for_every_legal_keypoint():
    images = np.random.default_rng(0).random((1, 48, 64, 3)).astype(np.float32)
    cut = jax.jit(functools.partial(puzzle.cut, resize=True))
    for y, x in legal_cuts(6, 8, 1):
        y, x = y * STRIDE, x * STRIDE
        patches = cut(images, jnp.array([[y, x]])).reshape(1, 2, 2, 24, 32, 3)
        for row, column in itertools.product(range(2), range(2)):
            piece = images[:, slice(0, y) if row == 0 else slice(y, None)]
            piece = piece[:, :, slice(0, x) if column == 0 else slice(x, None)]
            expected = jax.image.resize(piece, (1, 24, 32, 3), "linear", antialias=True)
            assert_allclose(patches[:, row, column], expected, atol=1e-5)
    assert cut._cache_size() == 1


def test_center_cut_is_the_even_split_untouched():
    images = np.random.default_rng(1).random((2, 32, 48, 3)).astype(np.float32)
    patches = cut_jit(images, jnp.array([[16, 24]] * 2), resize=True)
    even = images.reshape(2, 2, 16, 2, 24, 3).transpose(0, 1, 3, 2, 4, 5)
    assert_allclose(patches, even.reshape(8, 16, 24, 3), atol=1e-6)


def test_cut_then_tile_with_an_identity_encoder_restores_the_even_split():
    maps = np.random.default_rng(2).random((2, 6, 8, 5)).astype(np.float32)
    cut = jnp.array([[3, 4]] * 2)
    assert_allclose(cut_then_tile(maps, cut), maps, atol=1e-6)


def test_cut_then_tile_restores_each_patch_for_every_legal_keypoint():
    """A map constant on each patch survives any resizing, unless a patch leaks into another."""
    for y, x in legal_cuts(6, 8, 1):
        maps = np.zeros((1, 6, 8, 1), np.float32)
        maps[:, :y, :x], maps[:, :y, x:], maps[:, y:, :x], maps[:, y:, x:] = 1, 2, 3, 4
        cut = jnp.array([[y, x]])
        assert_allclose(cut_then_tile(maps, cut), maps, atol=1e-5)


def test_tile_resizes_each_map_into_its_place():
    maps = np.random.default_rng(3).random((4, 4, 4, 3)).astype(np.float32)
    tiled = tile_jit(maps, jnp.array([[2, 5]]), (8, 8))
    rows, columns = (slice(0, 2), slice(2, 8)), (slice(0, 5), slice(5, 8))
    for i, j in itertools.product(range(2), range(2)):
        place = np.zeros((8, 8))[rows[i], columns[j]].shape
        expected = jax.image.resize(maps[2 * i + j], (*place, 3), "linear")[None]
        assert_allclose(tiled[:, rows[i], columns[j]], expected, atol=1e-5)


def test_gradients_are_finite_at_every_border():
    maps = jnp.ones((4, 4, 4, 3))
    grad_fn = jax.jit(jax.grad(lambda maps, cut: puzzle.tile(maps, cut, (8, 8)).sum()))
    for cut_yx in [(1, 1), (1, 7), (7, 1), (7, 7)]:
        with jax.debug_nans(True):
            grad = grad_fn(maps, jnp.array([cut_yx]))
        # Every cell takes weight 1 in all, over 3 channels.
        assert_allclose(grad.sum(), 64 * 3, rtol=1e-5)


def test_patches_that_are_not_resized_stay_where_they_are():
    images = np.random.default_rng(4).random((2, 48, 64, 3)).astype(np.float32)
    cut = jnp.array([[8, 40], [32, 8]])
    patches = cut_jit(images, cut, resize=False).reshape(2, 2, 2, 48, 64, 3)
    assert_allclose(patches.sum((1, 2)), images, atol=1e-6)
    assert_allclose(patches[0, 0, 1, :8, 40:], images[0, :8, 40:], atol=1e-6)
    assert (patches[0, 0, 1, 8:] == 0).all()
    assert (patches[0, 0, 1, :, :40] == 0).all()


def test_cut_then_tile_without_resizing_restores_everything_for_every_legal_keypoint():
    maps = np.random.default_rng(5).random((1, 6, 8, 2)).astype(np.float32)
    for cut in legal_cuts(6, 8, 1):
        tiled = cut_then_tile(maps, jnp.array([cut]), resize=False)
        assert_allclose(tiled, maps, atol=1e-6)
