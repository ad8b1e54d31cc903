"""What the pictures of an evaluation are put together from, each an image below its title."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from oass_jax.evaluation import overlay

_GAP_PX = 4
_GROUND = "white"
_BOX = (86, 180, 233)


def draw_image(
    image: Image.Image,
    title: str,
    *,
    boxes: np.ndarray,
    keypoint_yx: tuple[float, float] | None = None,
    cut_yx: tuple[float, float] | None = None,
) -> Image.Image:
    """Draws an image with its objects, and where it is cut.

    Args:
      image: RGB.
      title: one line.
      boxes: `[M, 4]` ymin, xmin, ymax, xmax in [0, 1] of the image; cut off at its border.
      keypoint_yx: in pixels; None for none.
      cut_yx: row and column of pixels at which the lower and right patches begin; None for none.

    Returns:
      RGB.
    """
    drawn = image.copy()
    pen = ImageDraw.Draw(drawn)
    bottom, right = image.height - 1, image.width - 1
    boxes = np.clip(boxes, 0, 1)
    boxes = boxes[(boxes[:, :2] < boxes[:, 2:]).all(axis=1)]
    for ymin, xmin, ymax, xmax in boxes * np.tile([image.height, image.width], 2):
        for grow, colour, width in ((2, "black", 4), (1, _BOX, 2)):
            upper_left = max(0, xmin - grow), max(0, ymin - grow)
            lower_right = min(right, xmax + grow - 1), min(bottom, ymax + grow - 1)
            pen.rectangle((*upper_left, *lower_right), outline=colour, width=width)
    if cut_yx is not None:
        draw_cut(drawn, cut_yx)
    if keypoint_yx is not None:
        overlay.mark(drawn, keypoint_yx)
    return overlay.add_title(drawn, title)


def draw_cut(image: Image.Image, cut_yx: tuple[float, float]) -> None:
    """Draws the lines at which an image is cut.

    Args:
      image: RGB, drawn on.
      cut_yx: row and column of pixels at which the lower and right patches begin.
    """
    pen, (row, column) = ImageDraw.Draw(image), cut_yx
    _dash(pen, [(x, row) for x in range(image.width)])
    _dash(pen, [(column, y) for y in range(image.height)])


def _dash(pen: ImageDraw.ImageDraw, line: Sequence[tuple[float, float]]) -> None:
    """White dashes on a dark line, two pixels wide."""
    pen.line((line[0], line[-1]), "black", 2)
    for start in range(0, len(line), 12):
        dash = line[start : start + 7]
        pen.line((dash[0], dash[-1]), "white", 2)


def cut(image: Image.Image, cut_yx: tuple[int, int], *, resize: bool) -> list[Image.Image]:
    """Cuts an image into its four patches, as `method.puzzle.cut` does to what is trained on.

    That one compiles a program for each size of an image; its pixels are these, but for rounding.

    Args:
      image: RGB, at least two pixels high and wide.
      cut_yx: row and column at which the lower and the right patches begin.
      resize: every patch to half the image's sides; else it keeps its size, and its place on a
        black image.

    Returns:
      The upper left, upper right, lower left and lower right patch.
    """
    half = (image.width // 2, image.height // 2)
    (row, column), patches = cut_yx, []
    for top, bottom in ((0, row), (row, image.height)):
        for left, right in ((0, column), (column, image.width)):
            patch = image.crop((left, top, right, bottom))
            if resize:
                patches.append(patch.resize(half, Image.Resampling.BILINEAR))
            else:
                patches.append(Image.new("RGB", image.size))
                patches[-1].paste(patch, (left, top))
    return patches


def draw_patches(
    patches: Sequence[Image.Image], title: str, *, size: tuple[int, int]
) -> Image.Image:
    """Puts four patches together again, with a gap between them.

    Args:
      patches: in reading order.
      title: one line.
      size: width and height of all in pixels.

    Returns:
      RGB.
    """
    grid = Image.new("RGB", size, _GROUND)
    sides = [max(1, (side - _GAP_PX) // 2) for side in size]
    for number, patch in enumerate(patches):
        down, right = divmod(number, 2)
        place = (right * (size[0] - sides[0]), down * (size[1] - sides[1]))
        grid.paste(patch.resize(sides, Image.Resampling.BICUBIC), place)
    return overlay.add_title(grid, title)


def side_by_side(panels: Sequence[Image.Image]) -> Image.Image:
    """One image of several of the same height, with a gap between them."""
    width = sum(panel.width + _GAP_PX for panel in panels) - _GAP_PX
    whole = Image.new("RGB", (width, panels[0].height), _GROUND)
    left = 0
    for panel in panels:
        whole.paste(panel, (left, 0))
        left += panel.width + _GAP_PX
    return whole
