import io
import os
import tarfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

from oass_jax.image import augment

place_images = jax.jit(augment.place_images, static_argnums=2)
place_boxes = jax.jit(augment.place_boxes, static_argnums=3)
rescale_images = jax.jit(augment.rescale_images, static_argnames=("scale", "flip", "multiple"))


def photographs():
    """Real ones where they are at hand, and always one that is made here."""
    y, x = np.mgrid[:333, :500] / 40.0
    texture = np.random.default_rng(0).normal(0, 12, (333, 500, 3))
    waves = np.stack([np.sin(x * y), np.cos(x + y), np.sin(y * y / 3)], -1)
    yield np.clip(128 + 90 * waves + texture, 0, 255).astype(np.uint8)
    if folder := os.environ.get("OASS_TEST_DATA"):
        with tarfile.open(Path(folder) / "voc2012_sample.tar") as tar:
            members = [m for m in tar if m.name.endswith(".jpg")][:3]
            for member in members:
                yield np.asarray(Image.open(io.BytesIO(tar.extractfile(member).read())))


def on_canvas(image, px):
    canvas = np.zeros((1, px, px, 3), np.uint8)
    canvas[0, : image.shape[0], : image.shape[1]] = image
    return canvas, jnp.array([image.shape[:2]])


def place(image, window, *, flip=False, out_px):
    canvas, size = on_canvas(image, 512)
    placement = augment.Placement(
        size.astype(jnp.float32), jnp.array([window], jnp.float32), jnp.array([flip])
    )
    out = np.asarray(place_images(canvas, placement, out_px))[0]
    return (out * augment.IMAGENET_STD + augment.IMAGENET_MEAN) * 255


@pytest.mark.parametrize("long_side", [320, 401, 640])
def test_resizing_agrees_with_pil_bicubic(long_side):
    for image in photographs():
        scale = long_side / max(image.shape[:2])
        height, width = (round(s * scale) for s in image.shape[:2])
        expected = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
        got = place(image, [[0, height], [0, width]], out_px=640)[:height, :width]
        difference = np.abs(np.round(got) - np.asarray(expected, np.float32))
        assert np.quantile(difference, 0.999) <= 1
        assert difference.max() <= 10


def test_flip_mirrors_the_image_in_its_window():
    image = next(photographs())
    window = [[10, 333], [7, 500]]
    plain = place(image, window, out_px=512)[10:343, 7:507]
    mirrored = place(image, window, flip=True, out_px=512)[10:343, 7:507]
    assert_allclose(mirrored, plain[:, ::-1], atol=1e-3)
    assert_allclose(plain, image, atol=1e-3)


def test_padding_is_zero_after_normalisation():
    image = np.full((20, 30, 3), 200, np.uint8)
    canvas, size = on_canvas(image, 64)
    placement = augment.Placement(
        size.astype(jnp.float32), jnp.array([[[5.0, 20.0], [9.0, 30.0]]]), jnp.array([False])
    )
    out = np.asarray(place_images(canvas, placement, 64))[0]
    inside = np.zeros((64, 64), bool)
    inside[5:25, 9:39] = True
    assert (out[~inside] == 0).all()
    expected = (200 / 255 - np.array(augment.IMAGENET_MEAN)) / augment.IMAGENET_STD
    assert_allclose(out[inside], np.broadcast_to(expected, (600, 3)), rtol=1e-5)


def test_kept_images_are_only_normalised():
    image = next(photographs())
    canvas, size = on_canvas(image, 512)
    out = np.asarray(augment.keep_images(canvas, size))[0]
    pixels = (out * augment.IMAGENET_STD + augment.IMAGENET_MEAN) * 255
    assert_allclose(pixels[:333, :500], image, atol=1e-3)
    assert (out[333:] == 0).all()
    assert (out[:, 500:] == 0).all()


def draw(sizes, num, **kwargs):
    rng = jax.random.split(jax.random.PRNGKey(3), num)
    sizes = jnp.broadcast_to(jnp.array(sizes), (num, 2))
    return augment.random_placement(rng, sizes, **kwargs)


def test_placements_have_the_distribution_of_the_paper():
    num = 4000
    drawn = draw((300, 500), num, out_px=512, min_px=320, max_px=640, flip_probability=0.5)
    start, length = np.asarray(drawn.window[..., 0]), np.asarray(drawn.window[..., 1])
    long_side = length[:, 1]
    assert long_side.min() == 320
    assert long_side.max() == 640
    assert abs(long_side.mean() - 480) < 5
    # The other side follows to the nearest pixel, half to even as in Python.
    np.testing.assert_array_equal(length[:, 0], np.round(300 * (long_side / 500).astype("f4")))
    assert abs(np.asarray(drawn.flip).mean() - 0.5) < 0.03
    room = 512 - length
    assert (start[room >= 0] >= 0).all()
    assert (start[room >= 0] <= room[room >= 0]).all()
    assert (start[room < 0] <= 0).all()
    assert (start[room < 0] >= room[room < 0]).all()
    # Both ends of the range are reached, and the middle is the mean.
    share = (start / np.where(room == 0, 1, room))[np.abs(room) > 40]
    assert share.min() < 0.01
    assert share.max() > 0.99
    assert abs(share.mean() - 0.5) < 0.02


def test_an_image_draws_from_its_own_key_alone():
    rng = jax.random.split(jax.random.PRNGKey(0), 4)
    sizes = jnp.array([[300, 500], [500, 300], [40, 40], [512, 512]])
    options = {"out_px": 512, "min_px": 320, "max_px": 640, "flip_probability": 0.5}
    together = augment.random_placement(rng, sizes, **options)
    alone = augment.random_placement(rng[2:3], sizes[2:3], **options)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[2:3], b), together, alone)


def test_a_hair_thin_image_keeps_one_pixel():
    drawn = draw((1, 2000), 10, out_px=64, min_px=32, max_px=64, flip_probability=1.0)
    assert (np.asarray(drawn.window[:, 0, 1]) == 1).all()


def test_boxes_go_where_their_pixels_go():
    """A white rectangle on black: its box must bound the bright pixels of the placed image."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:30, 12:24] = 255
    canvas, _ = on_canvas(image, 64)
    boxes = jnp.array([[[10 / 40, 12 / 60, 30 / 40, 24 / 60], [0, 0, 0, 0]]])
    label = jnp.array([[3, -1]])
    drawn = draw((40, 60), 12, out_px=64, min_px=48, max_px=96, flip_probability=0.5)
    for i in range(12):
        one = jax.tree.map(lambda x, i=i: x[i : i + 1], drawn)
        pixels = np.asarray(place_images(canvas, one, 64))[0, ..., 0]
        placed, labels = place_boxes(boxes, label, one, 64)
        bright = np.argwhere(pixels > augment.normalise(jnp.full(3, 0.5))[0])
        assert labels[0, 1] == -1
        if not len(bright):
            assert labels[0, 0] == -1
            continue
        assert labels[0, 0] == 3
        bounds = [*bright.min(0), *(bright.max(0) + 1)]
        assert_allclose(np.asarray(placed[0, 0]) * 64, bounds, atol=1.0)


def test_a_box_outside_the_canvas_is_dropped():
    placement = augment.Placement(
        jnp.array([[100.0, 100.0]]),
        jnp.array([[[-100.0, 200.0], [0.0, 100.0]]]),
        jnp.array([False]),
    )
    boxes = jnp.array([[[0.0, 0.0, 0.4, 1.0], [0.0, 0.0, 0.75, 0.5]]])
    placed, label = augment.place_boxes(boxes, jnp.array([[1, 2]]), placement, 100)
    np.testing.assert_array_equal(label, [[-1, 2]])
    assert_allclose(placed[0], [[0, 0, 0, 0], [0, 0, 0.5, 0.5]], atol=1e-6)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
def test_rescaled_images_are_pils_bicubic_at_the_top_left(scale, flip):
    # Low in contrast: PIL clips the overshoot between its two passes, and rounds there.
    image = np.random.default_rng(0).integers(90, 160, (6, 8, 3)).repeat(6, 0).repeat(6, 1)
    canvas = np.zeros((1, 64, 64, 3), np.uint8)
    canvas[0, :36, :48] = image
    out = rescale_images(canvas, np.array([[36, 48]]), scale=scale, flip=flip, multiple=32)
    height, width = round(36 * scale), round(48 * scale)
    assert out.shape == (1, 64 * scale, 64 * scale, 3)
    picture = Image.fromarray(image.astype(np.uint8)).resize((width, height), Image.BICUBIC)
    expected = augment.normalise(np.asarray(picture)[:, :: -1 if flip else 1] / 255.0)
    assert np.abs(out[0, :height, :width] - expected).max() < 2 / 255 / 0.22
    assert np.abs(out[0, :height, :width] - expected).mean() < 0.5 / 255 / 0.22
    assert (out[0, height:] == 0).all()
    assert (out[0, :, width:] == 0).all()


@pytest.mark.parametrize(("scale", "multiple", "out_px"), [(0.6, 16, 48), (0.6, 32, 64)])
def test_the_canvas_of_rescaled_images_is_a_whole_multiple(scale, multiple, out_px):
    canvas, size = np.full((1, 64, 64, 3), 200, np.uint8), np.array([[64, 64]])
    out = rescale_images(canvas, size, scale=scale, flip=False, multiple=multiple)
    assert out.shape == (1, out_px, out_px, 3)
    assert (out[0, :38, :38] != 0).all()
    assert (out[0, 38:] == 0).all()


def test_rescaled_sizes_are_whole_pixels_and_never_none():
    sizes = augment.rescaled_size(np.array([[1, 2], [5, 333]]), 0.3)
    assert_allclose(sizes, [[1, 1], [2, 100]])
