import functools

import jax
import numpy as np
import pytest
from PIL import Image, ImageColor

from oass_jax.evaluation import overlay, panels
from oass_jax.method import puzzle

NO_BOXES = np.zeros([0, 4])


def noise(height, width):
    pixels = np.random.default_rng(0).integers(0, 256, [height, width, 3])
    return Image.fromarray(pixels.astype(np.uint8))


def below_the_title(panel, image):
    return np.asarray(panel)[-image.height :]


def test_the_patches_are_those_of_the_method():
    image = noise(45, 62)
    patches = panels.cut(image, (32, 16), resize=True)
    cut_fn = jax.jit(functools.partial(puzzle.cut, resize=True))
    expected = cut_fn(np.asarray(image)[None], np.array([(32, 16)]))
    # PIL rounds twice.
    np.testing.assert_allclose(np.stack(patches), expected, atol=1.1)


def test_patches_that_are_not_resized_keep_their_place():
    image = noise(40, 30)
    patches = np.stack(panels.cut(image, (16, 20), resize=False))
    np.testing.assert_array_equal(patches.sum(axis=0), np.asarray(image))
    np.testing.assert_array_equal(patches[1, :16, 20:], np.asarray(image)[:16, 20:])


def test_four_patches_lie_as_in_the_image_with_a_gap():
    colours = ("red", "green", "blue", "yellow")
    patches = [Image.new("RGB", (8, 6), colour) for colour in colours]
    grid = panels.draw_patches(patches, "patches", size=(101, 61))
    pixels = below_the_title(grid, Image.new("RGB", (101, 61)))
    corners = pixels[[0, 0, -1, -1], [0, -1, 0, -1]]
    np.testing.assert_array_equal(corners, [ImageColor.getrgb(colour) for colour in colours])
    assert (pixels[28:33, 48:53] == 255).all()


def test_the_cut_is_dashed_at_its_row_and_column_and_the_keypoint_ringed():
    image = Image.new("RGB", (320, 240), (90, 90, 90))
    drawn = panels.draw_image(
        image, "title", boxes=NO_BOXES, keypoint_yx=(100.0, 200.0), cut_yx=(160, 48)
    )
    pixels = below_the_title(drawn, image).astype(int)
    changed = (pixels != 90).any(axis=-1)
    assert changed[160].all()
    assert changed[:, 48].all()
    assert {0, 255} == set(pixels[160, 100:300].ravel().tolist())
    outside = np.argwhere(changed & ~changed[:, :1] & ~changed[:1])
    np.testing.assert_allclose(outside.mean(axis=0), (100, 200), atol=1)


def test_boxes_are_drawn_where_they_are_at_the_border_too():
    image = Image.new("RGB", (320, 240), (90, 90, 90))
    boxes = np.array(
        [[0.25, 0.5, 0.75, 1.0], [0, 0, 1, 1], [1.1, 1.1, 1.2, 1.2], [0.6, 0.6, 0.1, 0.1]]
    )
    pixels = below_the_title(panels.draw_image(image, "title", boxes=boxes), image)
    is_box = (pixels == panels._BOX).all(axis=-1)
    assert is_box[120, [0, 160, 319]].all()
    assert is_box[[0, 60, 239], 240].all()
    assert not is_box[120, 100:150].any()
    assert not is_box[30, 100:300].any()


@pytest.mark.parametrize("size", [(96, 96), (512, 300), (1, 900), (900, 1)])
def test_panels_have_one_height(size):
    image = overlay.fit(Image.new("RGB", size))
    assert max(image.size) == overlay.MIN_PX
    patches = [Image.new("RGB", (4, 4))] * 4
    shown = [
        panels.draw_image(image, "a title that is long", boxes=NO_BOXES),
        panels.draw_patches(patches, "b", size=image.size),
    ]
    whole = panels.side_by_side(shown)
    assert {whole.height} == {panel.height for panel in shown}
    assert whole.width > sum(panel.width for panel in shown)
