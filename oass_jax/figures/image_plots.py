"""Images with what was found in them -> Figs. 4 and 5."""

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from oass_jax.figures.style import COLOURS

if TYPE_CHECKING:  # which imports jax
    from oass_jax.evaluation.keypoint_marks import Marks

MARKS_HEADER = ("strategy", "class", "point", "y_px", "x_px")
MAPS_HEADER = ("image", "class", "run", "probability")

# As the paper prints them.
_STRATEGIES = {
    "max": "Max",
    "cmax": "cMax",
    "ctopk": "cTopk",
    "ctopk_w": "cTopk-w",
    "gt_bbox": "gt-bbox",
}
_EDGE = {"linestyle": "none", "markeredgecolor": "black", "markeredgewidth": 0.8}
_DOT = {"marker": "o", "markersize": 4} | _EDGE
_STAR = {"marker": "*", "markersize": 11} | _EDGE
_DASH_PT = 4
_NAME_LENGTH = 18  # of a run that fits beside its row
_WIDTH_IN = 7.0  # of a printed page between its margins
_MIN_ASPECT = 0.95  # of a column, so that the name of its class fits
_ROW_HEIGHT_IN = (0.9, 2.4)


class ClassMap(NamedTuple):
    """The class map of a run over an image.

    Attributes:
      image: its name.
      class_name: whose map it is.
      run: that it is of.
      probability: of the class.
      drawn: RGB.
    """

    image: str
    class_name: str
    run: str
    probability: float
    drawn: Image.Image


def marks_rows(marks: Sequence["Marks"]) -> Iterator[list[Any]]:
    """The points of Fig. 4 as rows of CSV, in the columns of `MARKS_HEADER`."""
    for one in marks:
        points = [("keypoint", one.keypoint_yx), ("cut", one.cut_yx)]
        source = "box centre" if one.strategy == "gt_bbox" else "local maximum"
        points += [(source, point) for point in one.sources_yx]
        yield from ([one.strategy, one.class_name, what, *yx] for what, yx in points)


def draw_keypoints(
    image: Image.Image, size: tuple[int, int], marks: Sequence["Marks"], *, labels: Sequence[str]
) -> Figure:
    """Fig. 4: a panel for each strategy; keypoints are stars, what they come from dots, cuts lines.

    Args:
      image: RGB, the image with a class map over it.
      size: its height and width in the pixels of the marks.
      marks: in the order of the panels.
      labels: classes, each with a colour.
    """
    colours = dict(zip(labels, itertools.cycle(COLOURS), strict=False)) | {"": "white"}
    panels = [list(group) for _, group in itertools.groupby(marks, lambda one: one.strategy)]
    figure, axes = _create(1, [size[1] / size[0]] * len(panels))
    for panel, place in zip(panels, axes.flat, strict=True):
        place.imshow(image, extent=(0, size[1], size[0], 0))
        place.set_title(_STRATEGIES.get(panel[0].strategy, panel[0].strategy))
        for number, one in enumerate(panel):
            colour = colours[one.class_name]
            # Where lines of classes coincide, the dashes of one lie in the gaps of the others.
            dashes = (number * _DASH_PT, (_DASH_PT, _DASH_PT * max(1, len(panel) - 1)))
            _draw_cut(place, one.cut_yx, size, color=colour, linestyle=dashes)
            _draw_points(place, one, color=colour)
    found = [name for name in labels if any(one.class_name == name for one in marks)]
    if found:
        stars = [Line2D([], [], color=colours[name], **_STAR, label=name) for name in found]
        figure.legend(handles=stars, loc="outside lower center", ncols=min(len(stars), 6))
    return figure


def _draw_cut(axes: Axes, cut_yx: tuple[float, float], size: tuple[int, int], **line: Any) -> None:
    (y, x), (height, width) = cut_yx, size
    for xs, ys in (((0, width), (y, y)), ((x, x), (0, height))):
        axes.plot(xs, ys, **line | {"color": "black"}, linewidth=2.4, zorder=1)  # for any ground
        axes.plot(xs, ys, **line, linewidth=1.4, zorder=2)


def _draw_points(axes: Axes, marks: "Marks", **colour: str) -> None:
    for y, x in marks.sources_yx:
        axes.plot(x, y, **_DOT, **colour, clip_on=False, zorder=3)
    y, x = marks.keypoint_yx
    axes.plot(x, y, **_STAR, **colour, clip_on=False, zorder=4)


def maps_rows(rows: Sequence[Sequence[ClassMap]]) -> list[list[Any]]:
    """The probabilities of Fig. 5 as rows of CSV, in the columns of `MAPS_HEADER`."""
    return [list(one[:4]) for column in zip(*rows, strict=True) for one in column]


def draw_class_maps(rows: Sequence[Sequence[ClassMap]]) -> Figure:
    """Fig. 5: a row for each run, a column for each image, with its class, and probabilities.

    Args:
      rows: of equal length.
    """
    figure, axes = _create(len(rows), [one.drawn.width / one.drawn.height for one in rows[0]])
    for number, (row, places) in enumerate(zip(rows, axes, strict=True)):
        for one, place in zip(row, places, strict=True):
            place.imshow(one.drawn)
            probability = f"{one.probability:.2f}"
            place.set_title(probability if number else f"{one.class_name}\n{probability}")
        name = row[0].run
        places[0].set_ylabel(name if len(name) <= _NAME_LENGTH else "…" + name[1 - _NAME_LENGTH :])
    return figure


def _create(num_rows: int, aspects: Sequence[float]) -> tuple[Figure, np.ndarray]:
    """Places for images, the width of a page where they are not too many.

    Args:
      num_rows: of images.
      aspects: width by height of the images of each column.
    """
    aspects = np.maximum(aspects, _MIN_ASPECT)
    height = float(np.clip(_WIDTH_IN / sum(aspects), *_ROW_HEIGHT_IN))
    figure = Figure(figsize=(sum(aspects) * height + 0.6, num_rows * (height + 0.2) + 0.3))
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    axes = figure.subplots(num_rows, len(aspects), width_ratios=aspects, squeeze=False)
    for place in axes.flat:
        place.set(xticks=[], yticks=[])
        place.spines[:].set_visible(False)
    return figure, axes
