import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from oass_jax.method import mcar
from oass_jax.method.mcar import Regions

crop = jax.jit(mcar.crop, static_argnames="regions")


def profile(*runs):
    """Values and how often each is repeated."""
    return np.concatenate([np.full(count, value, np.float32) for value, count in runs])


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([(0, 5), (9, 4), (0, 7)], (5, 4)),
        ([(9, 4), (0, 12)], (0, 4)),  # at the beginning
        ([(0, 12), (9, 4)], (12, 4)),  # at the end
        ([(0, 3), (7, 4), (0, 2), (9, 3), (0, 4)], (9, 3)),  # the stretch with the peak
        ([(0, 2), (6, 3), (9, 1), (6, 3), (0, 7)], (2, 7)),  # 6 / 9 is above one half
        ([(0, 2), (4, 3), (9, 2), (4, 3), (0, 6)], (5, 2)),  # 4 / 9 is not
        ([(-3, 5), (-1, 4), (-3, 7)], (5, 4)),  # brought to [0, 1] first
        ([(0, 8), (9, 1), (0, 7)], (8, 2)),  # widened to an eighth
        ([(0, 10), (9, 1), (0, 21)], (9, 4)),  # by one before and two after
        ([(9, 1), (0, 15)], (0, 2)),
        ([(0, 15), (9, 1)], (14, 2)),
        ([(5, 16)], (2, 12)),  # flat: the middle three quarters
    ],
)
def test_locate_by_hand(runs, expected):
    assert_array_equal(mcar.locate(jnp.array(profile(*runs)), 0.5), expected)


def test_locate_is_of_each_profile():
    profiles = np.stack([profile((0, 5), (9, 4), (0, 7)), profile((9, 4), (0, 12))])
    assert_array_equal(mcar.locate(jnp.array(profiles)[None], 0.5), [[[5, 4], [0, 4]]])


def test_crop_enlarges_the_regions_of_the_strongest_classes():
    images = np.random.default_rng(0).random((1, 32, 32, 3)).astype(np.float32)
    cam = np.full((1, 4, 4, 3), -9.0, np.float32)
    cam[0, 0:2, 2:4, 1] = cam[0, 2:4, 0:2, 2] = 9.0
    logits = jnp.array([[-1.0, 2.0, 5.0]])
    crops = crop(images, cam, logits, regions=Regions(count=2, threshold=0.5))
    assert crops.shape == (2, 32, 32, 3)
    # The strongest first: class 2 at the lower left, then class 1 at the upper right.
    for found, piece in zip(crops, (images[0, 16:, :16], images[0, :16, 16:]), strict=True):
        assert_allclose(found, jax.image.resize(piece, (32, 32, 3), "linear"), atol=1e-5)


def test_attention_is_the_sigmoid_of_the_map():
    """Columns -1, 2, 9, -1: half way between the sigmoids of -1 and 9 is 0.634, that of 2 0.881."""
    images = np.random.default_rng(0).random((1, 32, 32, 3)).astype(np.float32)
    cam = np.full((1, 4, 4, 1), -1.0, np.float32)
    cam[:, :, 1], cam[:, :, 2] = 2.0, 9.0
    (found,) = crop(images, cam, jnp.zeros((1, 1)), regions=Regions(count=1, threshold=0.5))
    # Eight pixels a cell: 0.634 is passed between the centres of pixels 8 and 9, and of 23 and 24.
    # Along the columns all is equal: the middle three quarters.
    piece = images[0, 4:28, 9:24]
    assert_allclose(found, jax.image.resize(piece, (32, 32, 3), "linear"), atol=1e-5)


def test_no_more_regions_than_classes_and_no_gradient_through_their_place():
    images, cam = jnp.ones((2, 16, 16, 3)), jnp.ones((2, 2, 2, 3))

    def total(cam):
        return crop(images, cam, cam.mean((1, 2)), regions=Regions(8, 0.5)).sum()

    assert crop(images, cam, cam.mean((1, 2)), regions=Regions(8, 0.5)).shape[0] == 6
    assert (jax.grad(total)(cam) == 0).all()


def test_strongest_is_the_highest_over_the_regions_of_an_image():
    logits = jnp.array([[1.0, 5.0], [2.0, 3.0], [-1.0, -5.0], [-2.0, 0.0]])
    assert_array_equal(mcar.strongest(logits, 2), [[2, 5], [-1, 0]])
