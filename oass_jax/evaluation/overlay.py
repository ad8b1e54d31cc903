"""A class map drawn over its image: colour and opacity by value, title, and the peak marked."""

import functools
import math

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

MIN_PX = 320  # long side of an image that a title can be read over
_MAX_OPACITY = 0.75
_DARK = (24, 24, 24)
# What a prediction of a class is, in a word -> colours of the title's ground and text: Okabe and
# Ito's, which differ in lightness, too.
_FINDINGS = {
    "true": ((0, 114, 178), "white"),
    "missed": ((240, 228, 66), "black"),
    "false": ((213, 94, 0), "white"),
    "predicted": (_DARK, "white"),
}
_COLOURS = "inferno"  # its lightness rises steadily: read without colour vision, too


def enlarge(image: Image.Image) -> Image.Image:
    """Brings the long side of an image to at least `MIN_PX`."""
    return image if max(image.size) >= MIN_PX else fit(image)


def fit(image: Image.Image) -> Image.Image:
    """Brings the long side of an image to `MIN_PX`."""
    scale = MIN_PX / max(image.size)
    return image.resize([max(1, round(side * scale)) for side in image.size])


def blend(image: Image.Image, class_map: np.ndarray, *, probability: float) -> Image.Image:
    """Lays a class map over an image.

    Opacity is the root of the class's probability times the positive part of the map relative to
    its maximum: a class that is absent does not glow, however its map is distributed.

    Args:
      image: RGB.
      class_map: float32 `[height, width]` of the image, in the unit of logits.
      probability: of the class.

    Returns:
      RGB of the same size; the image in gray, so that its colours do not mix with the map's.
    """
    value = np.maximum(class_map, 0.0)
    value = value / max(float(value.max()), 1e-12)
    colours = 255 * matplotlib.colormaps[_COLOURS](value)[..., :3]
    opacity = (_MAX_OPACITY * math.sqrt(probability) * value)[..., None]
    gray = np.asarray(image.convert("L").convert("RGB"))
    blended = (1 - opacity) * gray + opacity * colours
    return Image.fromarray(blended.round().astype(np.uint8))


def draw(
    image: Image.Image,
    class_map: np.ndarray,
    *,
    name: str,
    probability: float,
    keypoint_yx: tuple[float, float],
    finding: str = "predicted",
) -> Image.Image:
    """Draws a class map over an image, with a title and its peak marked.

    Args:
      image: RGB.
      class_map: as for `blend`.
      name: of the class.
      probability: of the class.
      keypoint_yx: where the map is highest, in pixels of the image.
      finding: 'true', 'missed' or 'false' where the label is known, and then a word of the title;
        else 'predicted'.

    Returns:
      RGB, the image below a strip with name and probability.
    """
    drawn = blend(image, class_map, probability=probability)
    mark(drawn, keypoint_yx)
    text = f"{name}  {probability:.2f}"
    ground, ink = _FINDINGS[finding]
    known = "" if finding == "predicted" else f"{finding}: "
    return add_title(drawn, known + text, ground=ground, ink=ink)


def add_title(
    image: Image.Image, text: str, *, ground: tuple[int, int, int] = _DARK, ink: str = "white"
) -> Image.Image:
    """Puts an image below a strip with a title.

    Args:
      image: RGB.
      text: one line; its end is cut off where it is too long.
      ground: of the strip, RGB.
      ink: colour of the text.

    Returns:
      RGB, as wide as the image; a narrow one is given a margin, up to `MIN_PX`, for the text.
    """
    unit = _unit(image)
    font = _font(unit)
    text_px = math.ceil(font.getlength(text)) + unit
    width = max(image.width, min(text_px, MIN_PX))
    whole = Image.new("RGB", (width, 2 * unit + image.height), ground)
    ImageDraw.Draw(whole).text((unit // 2, unit), text, ink, font, anchor="lm")
    whole.paste(_DARK, (0, 2 * unit, width, whole.height))
    whole.paste(image, ((width - image.width) // 2, 2 * unit))
    return whole


@functools.cache
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    # PIL's own has the letters of English only.
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size_px)


def mark(image: Image.Image, centre_yx: tuple[float, float]) -> None:
    """Draws a white ring with dark edges, seen on any ground.

    Args:
      image: RGB, drawn on.
      centre_yx: in pixels.
    """
    pen, radius = ImageDraw.Draw(image), _unit(image) / 2
    y, x = centre_yx
    for grow, colour, width in ((1, "black", 4), (0, "white", 2)):
        r = radius + grow
        pen.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=width)


def _unit(image: Image.Image) -> int:
    """Pixels of a letter's height."""
    return max(image.size) // 20
