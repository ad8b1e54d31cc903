"""Numbers -> charts: Figs. 2 and 6."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from oass_jax.figures.object_shift import SIDE_PX, ObjectShift
from oass_jax.figures.per_class_gain import Correlation, PerClassGain
from oass_jax.figures.style import BLUE, VERMILLION

_BAR_WIDTH = 0.4
_HEIGHT_IN = 3.0


def draw_object_shift(shift: ObjectShift, *, title: str) -> Figure:
    """Fig. 2: bars of the mean |Δx_c| and |Δy_c| of each class, with their standard deviations.

    Args:
      shift: the numbers.
      title: what they are of.
    """
    figure, axes = _create(shift.class_names)
    place = np.arange(len(shift.class_names))
    for number, (axis, name, colour) in enumerate(((1, "x", BLUE), (0, "y", VERMILLION))):
        axes.bar(
            place + (number - 0.5) * _BAR_WIDTH,
            shift.mean_abs_yx[:, axis],
            _BAR_WIDTH,
            yerr=shift.std_abs_yx[:, axis],
            color=colour,
            error_kw={"ecolor": "black", "elinewidth": 0.8, "capsize": 1.5},
            label=f"|Δ{name}|",
        )
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"mean shift, px of {SIDE_PX}")
    axes.set_title(title, loc="left")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), borderpad=0, ncols=2)
    return figure


def draw_per_class_gain(gain: PerClassGain, *, title: str) -> Figure:
    """Fig. 6: bars of the gain with its 95 % interval, and the shift's variance as a curve.

    Args:
      gain: the numbers.
      title: what they are of; the correlations are added.
    """
    figure, axes = _create(gain.class_names)
    place = np.arange(len(gain.class_names))
    ends = gain.interval.T
    axes.bar(place, gain.gain, 2 * _BAR_WIDTH, color=BLUE)
    axes.vlines(place, *ends, color="black", linewidth=0.8)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylabel("gain in AP, points", color=BLUE)

    right = axes.twinx()
    right.plot(place, gain.variance, "o-", color=VERMILLION, markersize=3)
    right.set_ylim(bottom=0)
    right.set_ylabel("variance of the shift, px²", color=VERMILLION)
    right.spines["right"].set_visible(True)
    correlations = ", ".join(_in_words(each) for each in gain.correlations)
    axes.set_title(f"{title}\n{correlations}")
    return figure


def _in_words(correlation: Correlation) -> str:
    name, value, low, high, _ = correlation
    if np.isnan(value):
        return f"{name} undefined"
    return f"{name} {value:+.2f} [{low:+.2f}, {high:+.2f}]".replace("-", "\N{MINUS SIGN}")


def _create(class_names: tuple[str, ...]) -> tuple[Figure, Axes]:
    """A chart with a place for each class on its x axis."""
    figure = Figure(figsize=(max(4.5, 1.5 + 0.28 * len(class_names)), _HEIGHT_IN))
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    axes.set_xticks(np.arange(len(class_names)), class_names, rotation=45, ha="right")
    axes.set_xlim(-0.7, len(class_names) - 0.3)
    axes.tick_params(axis="x", length=0)
    return figure, axes
