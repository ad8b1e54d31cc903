import matplotlib
import numpy as np
import pytest
from PIL import Image

from oass_jax.evaluation import overlay


def draw(class_map, *, image=None, name="dog", probability=1.0, keypoint_yx=(2.0, 2.0), **options):
    height, width = class_map.shape
    image = image or Image.new("RGB", (width, height), (90, 90, 90))
    return overlay.draw(
        image,
        class_map.astype(np.float32),
        name=name,
        probability=probability,
        keypoint_yx=keypoint_yx,
        **options,
    )


def below_the_title(drawn, height):
    return np.asarray(drawn)[-height:].astype(int)


def test_the_image_is_below_the_title_and_gray_where_the_map_is_not_positive():
    class_map = np.full([240, 320], -1.0)
    class_map[100:140, 150:200] = 5.0
    drawn = draw(class_map)
    assert drawn.width == 320
    assert drawn.height > 240
    pixels = below_the_title(drawn, 240)
    assert (pixels[200:] == 90).all()
    hot = pixels[120, 175]
    assert hot[0] - hot[2] > 50  # yellow


def test_a_title_has_letters_of_many_languages():
    """A font without a letter draws the same box for each."""
    image = Image.new("RGB", (320, 240))
    drawn = {overlay.add_title(image, letter).tobytes() for letter in "äéñłжλ"}
    assert len(drawn) == 6


def test_an_absent_class_does_not_glow():
    class_map = np.ones([240, 320])
    change = [
        np.abs(below_the_title(draw(class_map, probability=p), 240)[100:] - 90).max()
        for p in (0.0, 0.01, 0.5, 1.0)
    ]
    assert change[0] == 0
    assert change[1] < 15
    assert change[1] < change[2] < change[3]


def test_lightness_rises_with_the_value():
    """So that the colours are in order for everyone, and on paper."""
    red, green, blue, _ = matplotlib.colormaps[overlay._COLOURS](np.linspace(0, 1, 50)).T
    assert (np.diff(0.2126 * red + 0.7152 * green + 0.0722 * blue) > 0).all()
    ramp = np.broadcast_to(np.linspace(0, 1, 320), [240, 320])
    row = below_the_title(draw(ramp), 240)[200].sum(axis=-1)
    assert row[-1] > row[160]


def test_the_peak_is_marked_and_the_title_written():
    pixels = below_the_title(draw(np.zeros([240, 320]), keypoint_yx=(120.0, 60.0)), 240)
    changed = np.argwhere((pixels != 90).any(axis=-1))
    np.testing.assert_allclose(changed.mean(axis=0), (120, 60), atol=1)
    titles = [np.asarray(draw(np.zeros([240, 320]), name=name)) for name in ("dog", "cat")]
    assert (titles[0] != titles[1]).any()


def test_what_a_prediction_is_shows_in_the_title_without_colour_vision_too():
    words = ("true", "missed", "false", "predicted")
    titles = [np.asarray(draw(np.zeros([240, 320]), finding=word).convert("L")) for word in words]
    strips = [title[: len(title) - 240] for title in titles]
    grounds = np.array([np.median(strip) for strip in strips])
    assert np.diff(np.sort(grounds)).min() > 20  # of 255
    # Of three of them the letters are more: the word.
    letters = (np.abs(strips - grounds[:, None, None]) > 60).sum(axis=(1, 2))
    assert letters[:3].min() > 1.3 * letters[3]


def test_a_title_may_be_wider_than_its_image_and_ends_with_the_panel():
    narrow = Image.new("RGB", (60, 320), "red")
    short, long, longest = (overlay.add_title(narrow, "cat" * n) for n in (1, 8, 50))
    assert short.width == 60
    assert 60 < long.width < longest.width == overlay.MIN_PX
    assert short.height == long.height == longest.height > 320
    left = (long.width - 60) // 2
    assert (np.asarray(long)[-320:, left : left + 60] == (255, 0, 0)).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (30, 20)])
def test_small_images_are_enlarged(size):
    image = overlay.enlarge(Image.new("RGB", size))
    assert max(image.size) == max(320, *size)
    assert min(image.size) >= 1
    draw(np.zeros(image.size[::-1]), image=image, name="a long name " * 20)
