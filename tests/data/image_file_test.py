import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageFile, JpegImagePlugin

from oass_jax.data.image_file import (
    decode_mask,
    decode_rgb,
    read_header,
    read_rgb,
    read_shrunk,
    shrink,
    turn_boxes,
)
from oass_jax.errors import UserError

PIXELS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[9, 9, 9], [99, 99, 99], [200] * 3]])
PIXELS = PIXELS.astype(np.uint8)


def encoded(image, file_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def decoded(data, fit_px=100):
    return decode_rgb(data, name="x", fit_px=fit_px)


def test_rgb_is_untouched():
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(PIXELS))), PIXELS)


def test_grayscale_becomes_three_equal_channels():
    gray = PIXELS[..., 0]
    expected = np.repeat(gray[..., None], 3, axis=-1)
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(gray))), expected)


def test_palette_with_a_transparent_colour_becomes_white_there():
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60])
    plain, transparent = encoded(image), encoded(image, transparency=1)
    np.testing.assert_array_equal(decoded(plain), [[[10, 20, 30], [40, 50, 60]]])
    np.testing.assert_array_equal(decoded(transparent), [[[10, 20, 30], [255, 255, 255]]])


def test_alpha_is_composited_on_white():
    image = Image.fromarray(np.array([[[0, 0, 0, 0], [0, 0, 0, 255], [0, 0, 0, 51]]], np.uint8))
    np.testing.assert_array_equal(decoded(encoded(image))[0, :, 0], [255, 0, 204])
    gray = image.convert("LA")
    np.testing.assert_array_equal(decoded(encoded(gray))[0, :, 0], [255, 0, 204])


def test_sixteen_bits_are_scaled_not_clipped():
    image = Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16))
    np.testing.assert_array_equal(decoded(encoded(image))[0, :, 1], [0, 1, 128, 255])


def test_one_bit_is_black_and_white():
    image = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    np.testing.assert_array_equal(decoded(encoded(image))[0, :, 2], [0, 255])


def test_cmyk_jpeg_shows_its_colours():
    # PIL writes and reads CMYK JPEGs inverted, as Adobe does.
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    pixel = decoded(encoded(red, "JPEG", quality=100))[8, 8].astype(int)
    assert pixel[0] > 245
    assert pixel[1:].max() < 10


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_turns_pixels_boxes_and_masks_alike(orientation):
    stored = np.zeros([40, 64, 3], np.uint8)
    stored[4:12, 8:32] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(stored), "PNG", exif=exif)
    upright = decoded(data)
    assert read_header(data, name="x") == (40, 64, orientation)
    assert upright.shape[:2] == ((40, 64) if orientation < 5 else (64, 40))
    mask = encoded(Image.fromarray(stored[..., 0]))
    turned = decode_mask(mask, name="x", orientation=orientation)
    np.testing.assert_array_equal(turned, upright[..., 0])

    box = np.array([[4 / 40, 8 / 64, 12 / 40, 32 / 64]])
    y, x = np.nonzero(upright[..., 0])
    height, width = upright.shape[:2]
    seen = [y.min() / height, x.min() / width, (y.max() + 1) / height, (x.max() + 1) / width]
    np.testing.assert_allclose(turn_boxes(box, orientation)[0], seen)
    if orientation == 6:  # a quarter turn clockwise, by hand
        assert upright[8, 40 - 12, 0] == 255
        assert upright[7, 40 - 12, 0] == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["TIFF", "WEBP"])
def test_files_of_other_formats_are_turned_once(file_format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif} | ({"lossless": True} if file_format == "WEBP" else {})
    image = Image.fromarray(PIXELS)
    data, png = encoded(image, file_format, **options), encoded(image, "PNG", exif=exif)
    expected = decode_rgb(png, name="x", fit_px=999)
    np.testing.assert_array_equal(decode_rgb(data, name="x", fit_px=999), expected)


def test_an_image_without_pixels_is_refused():
    with pytest.raises(UserError, match=r"cannot be decoded \(it has no pixels\)"):
        read_rgb(Image.new("RGB", (0, 5)), name="x")


@pytest.mark.parametrize("orientation", [None, 0, 9])
def test_an_image_that_does_not_say_how_it_is_turned_is_upright(orientation):
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    data = encoded(Image.fromarray(PIXELS), exif=exif)
    assert read_header(data, name="x") == (2, 3, 1)
    np.testing.assert_array_equal(decoded(data), PIXELS)


def test_an_image_is_turned_though_its_other_exif_tags_are_invalid():
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\2"
    exif += struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)  # orientation 6
    exif += struct.pack(">HHII", 0x0128, 4, 1, 1 << 16)  # a unit of another type than it has
    data = encoded(Image.new("RGB", (40, 20)), "JPEG", exif=exif + bytes(4))
    assert decoded(data).shape == (40, 20, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_an_image_of_pil_is_read_as_its_file_is(mode):
    base = Image.fromarray(np.uint16(257) * PIXELS[..., 0]) if mode == "I;16" else None
    exif = Image.Exif()
    exif[0x0112] = 6
    image = base or Image.fromarray(PIXELS).convert(mode)
    file_format = "TIFF" if mode == "CMYK" else "PNG"
    data = encoded(image, file_format, exif=exif)
    opened = Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(read_rgb(opened, name="x"), decoded(data))
    assert read_rgb(opened, name="x").size == (2, 3)  # upright


def test_an_image_of_pil_with_values_of_no_known_range_is_refused():
    for values in (np.uint16, np.int32, np.float32):
        image = Image.fromarray(np.array([[0, 1]], values))
        with pytest.raises(UserError, match="the values of a PIL image of mode"):
            read_rgb(image, name="x")


@pytest.mark.parametrize(
    ("size", "fitted"), [((100, 50), (32, 16)), ((1, 100), (1, 32)), ((32, 20), (32, 20))]
)
def test_large_images_shrink_to_fit_and_small_ones_stay(size, fitted):
    image = Image.new("RGB", size, (7, 8, 9))
    result = decoded(encoded(image), fit_px=32)
    assert result.shape == (fitted[1], fitted[0], 3)
    np.testing.assert_array_equal(result[0, 0], [7, 8, 9])


def test_shrinking_is_antialiased():
    stripes = np.zeros([64, 64, 3], np.uint8)
    stripes[:, ::2] = 255
    inside = decoded(encoded(Image.fromarray(stripes)), fit_px=16)[2:-2, 2:-2]
    assert np.abs(inside.astype(int) - 127).max() <= 2


NOISE = np.random.default_rng(0).integers(255, size=(64, 64, 3), dtype=np.uint8)
PHOTO = encoded(Image.fromarray(NOISE), "JPEG")
# The place of the pixels is a number in a TIFF; here it is a text.
TIFF = encoded(Image.fromarray(NOISE), "TIFF").replace(b"\x11\x01\x04\0", b"\x11\x01\x02\0")


@pytest.mark.parametrize(
    "data", [b"", b"<html>", PHOTO[: len(PHOTO) // 2], b"%!PS-Adobe-3.0 EPSF-3.0\n", TIFF]
)
def test_a_damaged_file_names_itself(data):
    sentence = r"^2007_000032\.jpg cannot be decoded \([^<>]+\); replace"
    with pytest.raises(UserError, match=sentence):
        decode_rgb(data, name="2007_000032.jpg", fit_px=32)


def test_an_image_of_nothing_is_not_a_white_one():
    for mode in ("RGBA", "LA"):
        with pytest.raises(UserError, match="every pixel is transparent"):
            decoded(encoded(Image.new(mode, (8, 8))))


@pytest.mark.parametrize("values", [np.uint16, np.int32, np.float32])
def test_values_without_a_known_range_are_refused(values):
    data = encoded(Image.fromarray(np.array([[0, 1]], values)), "TIFF")
    sentence = "^x cannot be decoded .*the values of a TIFF of mode [IF].* have no known range"
    for read in (decoded, lambda data: read_header(data, name="x")):
        with pytest.raises(UserError, match=sentence):
            read(data)


def test_a_gigantic_image_is_refused_before_it_is_decoded():
    data = encoded(Image.new("1", (9_460, 9_450)))
    for read in (decoded, lambda data: read_header(data, name="x")):
        with pytest.raises(UserError, match="9460x9450 pixels"):
            read(data)


def test_it_is_the_pixels_that_are_counted_not_the_longer_side():
    panorama = encoded(Image.new("1", (10_000, 8)))
    assert read_header(panorama, name="x") == (8, 10_000, 1)
    assert decoded(panorama).shape == (1, 100, 3)


@pytest.mark.parametrize("file_format", ["PPM", "TGA", "PCX", "ICNS"])
def test_formats_that_photographs_do_not_come_in_are_refused(file_format):
    data = encoded(Image.new("RGB", (16, 16)), file_format)
    with pytest.raises(UserError, match="x cannot be decoded"):
        decoded(data)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_formats_that_photographs_come_in_are_read(file_format):
    data = encoded(Image.new("RGB", (16, 16), (255, 255, 255)), file_format)
    assert (decoded(data) == 255).all()


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(("file_format", "tolerance"), [("JPEG", 0.5), ("PNG", 0)])
def test_a_large_image_is_decoded_as_if_it_were_shrunk_from_all_its_pixels(
    file_format, tolerance, orientation
):
    smooth = Image.fromarray(PIXELS).resize((803, 601), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(smooth, file_format, exif=exif)
    expected = shrink(read_rgb(data, name="x"), 101)
    found, size = read_shrunk(data, name="x", fit_px=101)
    assert found.size == expected.size == ((101, 76) if orientation == 1 else (76, 101))
    assert size == ((601, 803) if orientation == 1 else (803, 601))
    difference = np.abs(np.asarray(found, int) - np.asarray(expected, int))
    assert difference.mean() <= tolerance
    np.testing.assert_array_equal(decode_rgb(data, name="x", fit_px=101), found)


def test_a_jpeg_is_decoded_whole_where_half_of_it_would_be_too_little():
    data = encoded(Image.fromarray(PIXELS).resize((400, 300)), "JPEG")
    for fit_px in (101, 400, 500):
        expected = shrink(read_rgb(data, name="x"), fit_px)
        found, size = read_shrunk(data, name="x", fit_px=fit_px)
        np.testing.assert_array_equal(found, expected)
        assert size == (300, 400)


@pytest.mark.parametrize("size", [(1, 1000), (1000, 1), (2, 999)])
def test_a_jpeg_as_thin_as_a_hair_keeps_a_pixel(size):
    data = encoded(Image.new("RGB", size, (9, 99, 200)), "JPEG")
    found, (height, width) = read_shrunk(data, name="x", fit_px=10)
    assert (width, height) == size
    assert sorted(found.size) == [1, 10]


def test_fewer_pixels_of_a_jpeg_are_decoded(monkeypatch):
    decoded_sizes = []
    monkeypatch.setattr(
        JpegImagePlugin.JpegImageFile,
        "load",
        lambda image: decoded_sizes.append(image.size) or ImageFile.ImageFile.load(image),
    )
    data = encoded(Image.fromarray(PIXELS).resize((800, 600)), "JPEG")
    read_shrunk(data, name="x", fit_px=100)
    assert set(decoded_sizes) == {(200, 150)}


def test_an_image_of_pils_keeps_its_size():
    opened = Image.open(io.BytesIO(encoded(Image.fromarray(PIXELS).resize((800, 600)), "JPEG")))
    found, size = read_shrunk(opened, name="x", fit_px=100)
    assert (found.size, size, opened.size) == ((100, 75), (600, 800), (800, 600))


def test_what_is_no_image_cannot_be_shrunk():
    with pytest.raises(UserError, match="x cannot be decoded"):
        read_shrunk(b"no image", name="x", fit_px=100)
