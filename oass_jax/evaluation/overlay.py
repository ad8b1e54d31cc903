"""A class map drawn over its image: colour and opacity by value, title, and the peak marked."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MIN_PX = 320  # long side of an image that a title can be read over
_MAX_OPACITY = 0.75
# Matplotlib's `inferno` at nine even steps: its lightness rises steadily, so that it is read
# without colour vision, too.
_COLOURS = np.array(
    [
        (0, 0, 4),
        (31, 12, 72),
        (85, 15, 109),
        (136, 34, 106),
        (186, 54, 85),
        (227, 89, 51),
        (249, 140, 10),
        (249, 201, 50),
        (252, 255, 164),
    ]
)


def enlarge(image: Image.Image) -> Image.Image:
    """Brings the long side of an image to at least `MIN_PX`."""
    scale = MIN_PX / max(image.size)
    if scale <= 1:
        return image
    return image.resize([max(1, round(side * scale)) for side in image.size])


def draw(
    image: Image.Image,
    class_map: np.ndarray,
    *,
    name: str,
    probability: float,
    keypoint_yx: tuple[float, float],
) -> Image.Image:
    """Draws a class map over an image.

    Opacity is the class's probability times the positive part of the map relative to its maximum:
    a class that is absent does not glow, however its map is distributed.

    Args:
      image: RGB.
      class_map: float32 `[height, width]` of the image, in the unit of logits.
      name: of the class.
      probability: of the class.
      keypoint_yx: where the map is highest, in pixels of the image.

    Returns:
      RGB, the image below a strip with name and probability.
    """
    value = np.maximum(class_map, 0.0)
    value = value / max(float(value.max()), 1e-12)
    steps = np.linspace(0, 1, len(_COLOURS))
    colours = np.stack([np.interp(value, steps, channel) for channel in _COLOURS.T], axis=-1)
    opacity = (_MAX_OPACITY * math.sqrt(probability) * value)[..., None]
    gray = np.asarray(image.convert("L").convert("RGB"))  # else its colours mix with the map's
    blended = (1 - opacity) * gray + opacity * colours
    drawn = Image.fromarray(blended.round().astype(np.uint8))

    unit = max(image.size) // 24
    title = Image.new("RGB", (image.width, 2 * unit), (24, 24, 24))
    font = ImageFont.load_default(unit)
    pen = ImageDraw.Draw(title)
    text = f"{name}  {probability:.2f}"
    pen.text((unit // 2, unit), text, "white", font, anchor="lm")

    _mark(ImageDraw.Draw(drawn), keypoint_yx, radius=unit / 2)
    whole = Image.new("RGB", (image.width, title.height + image.height))
    whole.paste(title, (0, 0))
    whole.paste(drawn, (0, title.height))
    return whole


def _mark(pen: ImageDraw.ImageDraw, centre_yx: tuple[float, float], *, radius: float) -> None:
    """A white ring with dark edges, seen on any ground."""
    y, x = centre_yx
    for grow, colour, width in ((1, "black", 4), (0, "white", 2)):
        r = radius + grow
        pen.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=width)
