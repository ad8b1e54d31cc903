"""How the tables of the study write numbers: the cells that they share."""

from collections.abc import Iterable, Sequence

from benchmarks.photographs.study import Difference, Interval
from oass_jax.figures.markdown import NONE
from oass_jax.figures.statistic import mean_and_std

OVER = ("over seeds", "over images", "over both")


def difference_cells(difference: Difference | None) -> list[str]:
    """The mean and its intervals `OVER`."""
    if difference is None:
        return [NONE] * 4
    intervals = (difference.over_seeds, difference.over_images, difference.over_both)
    return [signed(difference.mean), *map(interval_cell, intervals)]


def mean_cell(values: Iterable[float]) -> str:
    """The mean, and the standard deviation of several."""
    values = list(values)
    if not values:
        return NONE
    mean, deviation = mean_and_std(values)
    return f"{mean:.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")


def interval_cell(interval: Interval | None) -> str:
    """Its two ends."""
    return NONE if interval is None else f"{signed(interval[0])} to {signed(interval[1])}"


def signed(value: float) -> str:
    """With its sign, of two decimals."""
    return f"{value:+.2f}"


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """A table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)
