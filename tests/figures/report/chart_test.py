import math

import numpy as np
import pytest

from oass_jax.figures.report import chart


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (3, 97, [0, 20, 40, 60, 80, 100]),
        (-0.3, 0.2, [-0.3, -0.2, -0.1, 0, 0.1, 0.2]),
        (1e-9, 3e-9, [1e-9, 1.5e-9, 2e-9, 2.5e-9, 3e-9]),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert chart.ticks(low, high) == pytest.approx(expected)


def test_a_line_goes_through_its_points():
    drawing = chart.line_chart(
        "t", {"a": ([0, 100], [0, 50]), "b": ([50], [100])}, x_label="x", y_range=(0, 100)
    )
    left, right = chart.LEFT, chart.WIDTH - chart.RIGHT
    top, bottom = chart.TOP, chart.HEIGHT - chart.BOTTOM
    a, b = drawing.lines
    assert a.points == ((left, bottom), (right, (top + bottom) / 2))
    assert b.points == (((left + right) / 2, top),)
    assert a.path == f"M{left},{bottom} {right},{(top + bottom) / 2:g}"
    assert (a.last, b.last) == (50, 100)
    assert drawing.x_ticks[0] == (left, "0")
    assert drawing.y_ticks[-1] == (top, "100")


@pytest.mark.parametrize(
    "values", [[0.0], [3.0], [-2.0], [100.0, math.nextafter(100, 0)], [50.0, math.nextafter(50, 0)]]
)
def test_a_constant_has_a_place(values):
    drawing = chart.line_chart("t", {"a": ([5] * len(values), values)}, x_label="x")
    x, y = drawing.lines[0].points[0]
    assert chart.LEFT <= x <= chart.WIDTH
    assert chart.TOP <= y <= chart.HEIGHT


def test_many_points_are_not_marked():
    x = np.arange(100)
    assert chart.line_chart("t", {"a": (x, x)}, x_label="x").lines[0].points == ()


def test_large_numbers_are_short():
    drawing = chart.line_chart("t", {"a": ([0, 1e6], [0, 50_000])}, x_label="x")
    assert [text for _, text in drawing.x_ticks] == ["0", "200k", "400k", "600k", "800k", "1M"]
    assert drawing.y_ticks[-1][1] == "50k"
