"""Numbers -> places on a drawing, in the units of its SVG `viewBox`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# Of a drawing with axes; small, because a phone shows it at about its own size.
WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 10, 34
_MARKED = 30  # points that are few enough to see each


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
      name: of what it shows.
      path: the `d` of an SVG path.
      points: x and y of points to mark.
      last: its last value, for the legend.
    """

    name: str
    path: str
    points: tuple[tuple[float, float], ...]
    last: float


@dataclass(frozen=True)
class Chart:
    """A drawing with two axes.

    Attributes:
      title: what it shows.
      x_label: of the horizontal axis.
      lines: at most as many as there are styles, see `style.css`.
      x_ticks: place and text.
      y_ticks: place and text.
    """

    title: str
    x_label: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def line_chart(
    title: str,
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_label: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> Chart:
    """Draws lines.

    Args:
      title: what they show.
      series: name -> x and y, not empty.
      x_label: of the horizontal axis.
      x_range: None for that of the numbers.
      y_range: likewise.
    """
    x_low, x_high, x_ticks = _axis(x_range, [x for x, _ in series.values()])
    y_low, y_high, y_ticks = _axis(y_range, [y for _, y in series.values()])

    def across(x: np.ndarray) -> np.ndarray:
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def down(y: np.ndarray) -> np.ndarray:
        return HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    lines = []
    for name, (x, y) in series.items():
        places_x, places_y = across(np.asarray(x, float)), down(np.asarray(y, float))
        points = list(zip(places_x.round(1).tolist(), places_y.round(1).tolist(), strict=True))
        marked = tuple(points) if len(points) <= _MARKED else ()
        lines.append(Line(name, path(places_x, places_y), marked, float(y[-1])))
    return Chart(
        title=title,
        x_label=x_label,
        lines=tuple(lines),
        x_ticks=tuple((round(float(across(x)), 1), _text(x)) for x in x_ticks),
        y_ticks=tuple((round(float(down(y)), 1), _text(y)) for y in y_ticks),
    )


def path(x: np.ndarray, y: np.ndarray) -> str:
    """The `d` of an SVG path through points; empty without any."""
    places = " ".join(f"{a:.4g},{b:.4g}" for a, b in zip(x, y, strict=True))
    return f"M{places}" if places else ""


def ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers from at most `low` to at least `high`."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * unit for unit in (1, 2, 5, 10) if power * unit >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * n for n in range(first, last + 1)]


def _axis(
    given: tuple[float, float] | None, values: Sequence[Sequence[float]]
) -> tuple[float, float, list[float]]:
    low, high = given or (min(map(min, values)), max(map(max, values)))
    if math.isclose(low, high):
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if low else (0.0, 1.0)
    places = ticks(low, high)
    return (*given, places) if given else (places[0], places[-1], places)


def _text(value: float) -> str:
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{round(value, 12):g}"
