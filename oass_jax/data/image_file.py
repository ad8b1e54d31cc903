"""An image file, or PIL's image -> upright RGB, as a person sees it, and its mask likewise."""

import io
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from oass_jax.errors import UserError

# PIL's other readers include one that starts Ghostscript; images come in these.
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
_MAX_PIXELS = 89_000_000  # just below where PIL warns; 270 MB in memory
_MIN_DECODED = 2  # times the pixels along a side that are wanted
_ORIENTATION_TAG = 0x0112
# EXIF orientation -> how to turn the stored pixels upright. ImageOps.exif_transpose would also
# write the EXIF data anew, which fails for what many cameras store.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What PIL raises on bytes that are no image, or a damaged one.
_DECODE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    EOFError,
    LookupError,
    ArithmeticError,
    struct.error,
    Image.DecompressionBombError,
)


def read_header(file: bytes | Path | BinaryIO, *, name: str) -> tuple[int, int, int]:
    """Size and orientation of an image without decoding its pixels.

    Args:
      file: its bytes; or its path or the open file, of which no more is read than has to be.
      name: what the error calls the file.

    Returns:
      Height and width of the stored pixels, and the EXIF orientation, 1 (upright) to 8.

    Raises:
      UserError: no image, one beyond the pixel budget, or one of values without a known range.
    """
    try:
        with _open(file) as image:
            return image.height, image.width, _orientation(image)
    except _DECODE_ERRORS as error:
        raise _undecodable(name, error) from error


def decode_rgb(data: bytes, *, name: str, fit_px: int) -> np.ndarray:
    """The pixels of `read_shrunk`.

    Args:
      data: the file's bytes.
      name: what the error calls the file.
      fit_px: as in `shrink`.

    Returns:
      uint8 `[height, width, 3]`.

    Raises:
      UserError: as `read_rgb`.
    """
    return np.asarray(read_shrunk(data, name=name, fit_px=fit_px)[0])


def read_rgb(source: bytes | Image.Image, *, name: str) -> Image.Image:
    """Decodes an image as a person sees it.

    EXIF orientation is applied; palettes, CMYK (Adobe's inverted files too), 16-bit PNG and 1-bit
    images become 8-bit RGB over the same range; what is transparent becomes white.

    Args:
      source: the file's bytes, or an image of PIL's, opened or made.
      name: what the error calls it.

    Returns:
      The image in mode RGB, at its own size.

    Raises:
      UserError: it is no image, is damaged, is beyond the pixel budget, is transparent everywhere,
        or has integers of more than 8 bits or floats without a known range.
    """
    try:
        image = _checked(source) if isinstance(source, Image.Image) else _open(source)
        return _to_rgb(_upright(image))
    except _DECODE_ERRORS as error:
        raise _undecodable(name, error) from error


def read_shrunk(
    source: bytes | Image.Image, *, name: str, fit_px: int
) -> tuple[Image.Image, tuple[int, int]]:
    """Decodes an image as `read_rgb` and shrinks it to fit a square, as `shrink` does.

    Of a JPEG file no more pixels are decoded than that takes: by halves, as long as twice as many
    are left. Of 12 megapixels for 448 that is a third of the time, and 0.3 of 255 off on average.

    Args:
      source: as in `read_rgb`.
      name: as in `read_rgb`.
      fit_px: as in `shrink`.

    Returns:
      The image in mode RGB, and height and width that it had before.

    Raises:
      UserError: as `read_rgb`.
    """
    if isinstance(source, Image.Image):  # whose own size must stay
        image = read_rgb(source, name=name)
        return shrink(image, fit_px), (image.height, image.width)
    try:
        image = _open(source)
        stored = image.size
        scale = _MIN_DECODED * fit_px / max(stored)
        image.draft(None, tuple(max(1, int(side * scale)) for side in stored))
        is_drafted = image.size != stored
        upright = _to_rgb(_upright(image))
        turned = stored[::-1] if _orientation(image) >= 5 else stored
        width, height = turned if is_drafted else upright.size
        return _resize(upright, _fitted((width, height), fit_px)), (height, width)
    except _DECODE_ERRORS as error:
        raise _undecodable(name, error) from error


def shrink(image: Image.Image, fit_px: int) -> Image.Image:
    """Shrinks an image to fit a square: aspect kept, antialiased bicubic.

    Args:
      image: of any mode that can be resampled.
      fit_px: the long side of an image that is larger; a smaller one is left alone.
    """
    return _resize(image, _fitted(image.size, fit_px))


def _fitted(size: tuple[int, int], fit_px: int) -> tuple[int, ...]:
    scale = fit_px / max(size)
    return size if scale >= 1 else tuple(max(1, round(side * scale)) for side in size)


def _resize(image: Image.Image, size: tuple[int, ...]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def decode_mask(data: bytes, *, name: str, orientation: int) -> np.ndarray:
    """Decodes a mask of the stored pixels and turns it as its image is turned.

    Args:
      data: the file's bytes.
      name: what the error calls the file.
      orientation: EXIF orientation of the image, 1 to 8.

    Returns:
      uint8 `[height, width]` of the upright image: indices into the palette, or gray values.

    Raises:
      UserError: the file is no image, is damaged, or has more than one channel of 8 bits.
    """
    try:
        image = _open(data)
        pixels = np.asarray(_turn(image, orientation))
    except _DECODE_ERRORS as error:
        raise _undecodable(name, error) from error
    if image.mode not in ("P", "L"):
        raise UserError(f"{name} is an image of mode {image.mode}; a mask is one of P or L")
    return pixels


def turn_boxes(boxes: np.ndarray, orientation: int) -> np.ndarray:
    """Boxes of the stored pixels -> boxes of the upright image.

    Args:
      boxes: `[N, 4]` ymin, xmin, ymax, xmax in [0, 1] of the stored pixels.
      orientation: EXIF orientation, 1 to 8.

    Returns:
      `[N, 4]` in the same order, in [0, 1] of the upright image.
    """
    ymin, xmin, ymax, xmax = boxes.T
    corners_y, corners_x = np.stack([ymin, ymax]), np.stack([xmin, xmax])
    if orientation >= 5:
        corners_y, corners_x = corners_x, corners_y
    if orientation in (3, 4, 7, 8):
        corners_y = 1 - corners_y[::-1]
    if orientation in (2, 3, 6, 7):
        corners_x = 1 - corners_x[::-1]
    return np.stack([corners_y[0], corners_x[0], corners_y[1], corners_x[1]], axis=-1)


def _open(file: bytes | Path | BinaryIO) -> Image.Image:
    source = io.BytesIO(file) if isinstance(file, bytes) else file
    return _checked(Image.open(source, formats=_FORMATS))


def _checked(image: Image.Image) -> Image.Image:
    if not image.width * image.height:
        raise ValueError("it has no pixels")
    # PIL itself only warns.
    if image.width * image.height > _MAX_PIXELS:
        raise ValueError(f"{image.width}x{image.height} pixels, more than {_MAX_PIXELS:,}")
    # Only PNG defines which of these values is white; any other would become black or white.
    if image.mode.startswith(("I", "F")) and image.format != "PNG":
        raise ValueError(
            f"the values of a {image.format or 'PIL image'} of mode {image.mode} have no known "
            "range: convert it to 8 bits"
        )
    return image


def _orientation(image: Image.Image) -> int:
    orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    return orientation if orientation in range(1, 9) else 1


def _upright(image: Image.Image) -> Image.Image:
    # Its reader of TIFF turns them itself as it loads, and then says so.
    image.load()
    return _turn(image, _orientation(image))


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode.startswith("I"):
        return _sixteen_to_eight_bit(image).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getextrema()[3] == (0, 0):
            raise ValueError("every pixel is transparent")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _sixteen_to_eight_bit(image: Image.Image) -> Image.Image:
    # PIL's own conversion clips at 255, which turns nearly every 16-bit image white.
    values = np.asarray(image).astype(np.int64)
    return Image.fromarray(((values * 255 + 32767) // 65535).clip(0, 255).astype(np.uint8))


def _undecodable(name: str, error: Exception) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, UnidentifiedImageError):  # whose message is of an object in memory
        reason = f"it is none of {', '.join(_FORMATS)}, or damaged"
    return UserError(f"{name} cannot be decoded ({reason}); replace the file or take it out")
