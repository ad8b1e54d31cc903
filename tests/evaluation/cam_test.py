import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from numpy.testing import assert_allclose

from oass_jax.evaluation import cam
from oass_jax.image import augment
from oass_jax.run import build

rescale_images = jax.jit(augment.rescale_images, static_argnames=("scale", "flip", "multiple"))
STRIDE, PX, NUM_CLASSES = 16, 64, 4
SCALES = (0.5, 1.0, 1.5, 2.0)


class Encoder:
    stride = STRIDE


class BlockMeans:
    """A network whose class maps are means of 16 by 16 pixels, mixed from the three colours.

    The left pixels of a cell count more, so that it does not see a mirrored image as mirrored.
    """

    encoder = Encoder
    ramp = np.linspace(2, 0, STRIDE, dtype=np.float32)
    mix = np.random.default_rng(0).normal(size=(3, NUM_CLASSES)).astype(np.float32)

    def apply(self, variables, image, *, train):
        assert not train
        rows, columns = image.shape[1] // STRIDE, image.shape[2] // STRIDE
        pixels = image.reshape(len(image), rows, STRIDE, columns, STRIDE, 3)
        cells = (pixels * self.ramp[:, None]).mean(axis=(2, 4))
        return {"cam": variables["gain"] * cells @ self.mix}


class LoudPadding:
    """A network that says 1 in cells with a pixel of the image and 1000 in those without."""

    encoder = Encoder

    def apply(self, variables, image, *, train):
        rows, columns = image.shape[1] // STRIDE, image.shape[2] // STRIDE
        cells = jnp.abs(image).reshape(len(image), rows, STRIDE, columns, STRIDE * 3)
        empty = cells.max(axis=(2, 4)) == 0
        return {"cam": jnp.where(empty, 1000.0, 1.0)[..., None].repeat(NUM_CLASSES, axis=-1)}


# One of each, so that tests share what is compiled for it.
BLOCK_MEANS, LOUD_PADDING = BlockMeans(), LoudPadding()


def batch_of(images, labels, *, map_size=None):
    canvas = np.zeros((len(images), PX, PX, 3), np.uint8)
    for place, image in zip(canvas, images, strict=True):
        place[: image.shape[0], : image.shape[1]] = image
    size = np.array([image.shape[:2] for image in images], np.int32)
    return {
        "image": canvas,
        "size": size,
        "label": np.array(labels, np.int8),
        "map_size": size if map_size is None else np.array(map_size, np.int32),
        "mask": size[:, 0] > 0,
        "index": np.arange(len(images), dtype=np.int32),
    }


def photograph(seed, height, width):
    """Squares of eight pixels in random colours, none of them black."""
    squares = np.random.default_rng(seed).integers(1, 255, (8, 8, 3), dtype=np.uint8)
    return squares.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]


@functools.partial(jax.jit, static_argnames=("network", "scales", "flip", "num_slots", "out_px"))
def step(batch, *, network=BLOCK_MEANS, scales=(1.0,), flip=False, num_slots=2, out_px=PX):
    return cam.class_map_step(
        {"gain": jnp.ones(())},
        batch,
        network=network,
        scales=scales,
        flip=flip,
        num_slots=num_slots,
        out_px=out_px,
    )


def interpolated(cells, cell_px, size):
    """`[h, w]` -> `size` by np.interp along each axis; outside the centres the outermost counts."""
    for axis in (0, 1):
        at = (np.arange(size[axis]) + 0.5) / cell_px[axis] - 0.5
        along = functools.partial(np.interp, at, np.arange(cells.shape[axis]))
        cells = np.apply_along_axis(along, axis, cells)
    return cells


@pytest.mark.parametrize("factor", [1, 2])
def test_one_scale_without_flip_is_the_resized_map(factor):
    """Also where the maps are to be larger than the image on its canvas."""
    image = photograph(1, 48, 37)
    size = (48 * factor, 37 * factor)
    batch = batch_of([image], [[0, 1, 0, 1]], map_size=[size])
    out = step(batch, out_px=100)
    normalised = augment.keep_images(batch["image"], batch["size"])
    cam = BLOCK_MEANS.apply({"gain": 1.0}, normalised, train=False)["cam"][0, :3, :3]
    np.testing.assert_array_equal(out["classes"], [[1, 3]])
    for slot, c in enumerate((1, 3)):
        expected = interpolated(np.maximum(cam[..., c], 0), [STRIDE * factor] * 2, size)
        assert expected.max() > 0
        expected /= expected.max() + 1e-5
        assert_allclose(out["maps"][0, slot, : size[0], : size[1]], expected, atol=1e-5)
    assert (out["maps"][0, :, size[0] :] == 0).all()
    assert (out["maps"][0, :, :, size[1] :] == 0).all()


def test_scales_are_summed_before_they_are_divided():
    image = photograph(2, 32, 32)
    batch = batch_of([image], [[1, 0, 0, 0]])
    total = np.zeros((32, 32))
    for scale in (0.5, 1.0, 2.0):
        input_image = rescale_images(
            batch["image"], batch["size"], scale=scale, flip=False, multiple=2 * STRIDE
        )
        cam = BLOCK_MEANS.apply({"gain": 1.0}, input_image, train=False)["cam"]
        cells = int(32 * scale) // STRIDE
        raw = np.maximum(cam[0, :cells, :cells, 0], 0)
        total += interpolated(raw, [STRIDE / scale] * 2, (32, 32))
    out = step(batch, scales=(0.5, 1.0, 2.0))
    assert_allclose(out["maps"][0, 0, :32, :32], total / (total.max() + 1e-5), atol=1e-5)


@pytest.mark.parametrize("width", [64, 37, 13])
def test_a_mirrored_image_has_mirrored_maps(width):
    """About its own middle: no width here but the first fills the canvas."""
    image = photograph(3, 41, width)
    both = batch_of([image, image[:, ::-1]], [[1, 0, 1, 0]] * 2)
    maps = np.asarray(step(both, scales=SCALES, flip=True)["maps"])[..., :41, :width]
    assert maps.max() > 0.99
    assert_allclose(maps[1], maps[0, ..., ::-1], atol=1e-4)
    alone = np.asarray(step(both)["maps"])[..., :41, :width]
    assert np.abs(alone[1] - alone[0, ..., ::-1]).max() > 0.01


@pytest.mark.parametrize("size", [(64, 64), (40, 60), (17, 33), (5, 3), (1, 1)])
def test_padding_never_leaks_and_no_image_is_too_small(size):
    batch = batch_of([photograph(4, *size)], [[1, 0, 0, 0]])
    out = step(batch, network=LOUD_PADDING, scales=SCALES, flip=True)
    maps = np.asarray(out["maps"])[0, 0]
    assert_allclose(maps[: size[0], : size[1]], 1.0, atol=1e-5)
    assert maps.sum() == pytest.approx(size[0] * size[1], rel=1e-4)


def test_ignored_and_absent_classes_have_no_map():
    batch = batch_of([photograph(5, 20, 20)] * 2, [[-1, 0, 1, -1], [0, 0, 0, 0]])
    out = step(batch)
    np.testing.assert_array_equal(out["classes"], [[2, -1], [-1, -1]])
    assert (out["maps"][0, 1] == 0).all()
    assert (out["maps"][1] == 0).all()


def test_what_fills_the_last_batch_is_dropped_and_the_rest_cut_to_its_size():
    empty = np.zeros((0, 0, 3), np.uint8)
    batch = batch_of([photograph(6, 20, 30), empty], [[0, 1, 1, 0], [0, 0, 0, 0]])
    other = batch_of([photograph(7, 64, 10)], [[0, 0, 0, 0]]) | {"index": np.array([2])}
    images = list(cam.image_maps(functools.partial(step, flip=True), [batch, other]))
    assert [image.index for image in images] == [0, 2]
    np.testing.assert_array_equal(images[0].classes, [1, 2])
    assert images[0].classes.dtype == np.int64
    assert images[0].maps.shape == (2, 20, 30)
    assert np.isfinite(images[0].maps).all()
    assert images[1].maps.shape == (0, 64, 10)


def test_no_more_than_two_batches_are_under_way():
    begun = []

    def batches():
        for number in range(100):
            begun.append(number)
            yield batch_of([photograph(number, 20, 20)], [[1, 0, 0, 0]])

    next(cam.image_maps(step, batches()))
    assert begun == [0, 1]


def test_eight_devices_make_the_maps_of_one():
    images = [photograph(n, 20 + n, 64 - 3 * n) for n in range(8)]
    batch = batch_of(images, np.eye(NUM_CLASSES, dtype=np.int8)[np.arange(8) % NUM_CLASSES])
    assert len(jax.devices()) == 8

    def maps(devices):
        mesh = Mesh(np.array(devices), ("data",))
        step_fn = functools.partial(
            cam.class_map_step,
            network=BLOCK_MEANS,
            scales=(0.5, 1.0),
            flip=True,
            num_slots=1,
            out_px=PX,
        )
        step_fn = jax.jit(
            step_fn,
            in_shardings=(build.replicated(mesh), build.batch_sharding(mesh)),
            out_shardings=build.replicated(mesh),
        )
        fields = tuple(batch)
        return step_fn({"gain": jnp.ones(())}, build.to_device(batch, fields, mesh))["maps"]

    eight = maps(jax.devices())
    assert len(eight.sharding.device_set) == 8
    assert_allclose(eight, maps(jax.devices()[:1]), atol=1e-6)
