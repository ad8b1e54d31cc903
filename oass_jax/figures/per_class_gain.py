"""Fig. 6: the gain in average precision of each class, and how far its objects are scattered."""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from oass_jax.errors import UserError
from oass_jax.evaluation import bootstrap
from oass_jax.evaluation.average_precision import mean_average_precision
from oass_jax.figures.object_shift import ObjectShift
from oass_jax.figures.source import Source, aligned

NUM_DRAWS = 1000
HEADER = ("class", "ap", "ap_baseline", "gain", "gain_low", "gain_high", "variance_px2")
CORRELATION_HEADER = ("correlation", "value", "low", "high", "classes")


class Correlation(NamedTuple):
    """A correlation over classes and its 95 % interval; NaN where it is undefined.

    Attributes:
      name: 'Pearson' or 'Spearman'.
      value: from -1 to 1.
      low: lower end of the interval.
      high: its upper end.
      num_classes: it is of.
    """

    name: str
    value: float
    low: float
    high: float
    num_classes: int


@dataclass(frozen=True)
class PerClassGain:
    """The gain of a run over a baseline, by class.

    Attributes:
      class_names: C names.
      ap: float64 `[C]`, percent, of the run; NaN for a class without positives.
      baseline_ap: the same of the baseline.
      interval: float64 `[C, 2]`, lower and upper end of the gain's 95 % interval, points.
      variance: float64 `[C]`, px², see `ObjectShift`; NaN for a class without objects.
      correlations: of gain and variance, over the classes that have both.
    """

    class_names: tuple[str, ...]
    ap: np.ndarray
    baseline_ap: np.ndarray
    interval: np.ndarray
    variance: np.ndarray
    correlations: tuple[Correlation, ...]

    @property
    def gain(self) -> np.ndarray:
        """Float64 `[C]`, points of average precision."""
        return self.ap - self.baseline_ap

    def rows(self) -> list[list[Any]]:
        """The numbers as rows of CSV, in the columns of `HEADER`."""
        columns = (self.ap, self.baseline_ap, self.gain, *self.interval.T, self.variance)
        numbers = np.stack(columns, axis=-1).tolist()
        return [[name, *row] for name, row in zip(self.class_names, numbers, strict=True)]


def measure(run: Source, baseline: Source, shift: ObjectShift) -> PerClassGain:
    """Compares two runs on the same images.

    The interval of a gain is over images, drawn for both runs alike; that of a correlation is over
    classes.

    Args:
      run: its evaluation.
      baseline: that of the run it is compared with.
      shift: of the objects; classes are matched by name.

    Raises:
      UserError: the two are of other images, classes or labels; or fewer than three classes have a
        gain and a variance.
    """
    both = (run, aligned(run, baseline))
    ap, baseline_ap = (mean_average_precision(each.logits, each.label).ap for each in both)
    weights = bootstrap.draw_weights(len(run.images), NUM_DRAWS)
    drawn, baseline_drawn = (
        bootstrap.average_precision(each.logits, each.label, weights) for each in both
    )
    class_names = run.class_names
    known = dict(zip(shift.class_names, shift.variance.tolist(), strict=True))
    variance = np.array([known.get(name, np.nan) for name in class_names])
    return PerClassGain(
        class_names=class_names,
        ap=ap,
        baseline_ap=baseline_ap,
        interval=np.array([bootstrap.interval(gain) for gain in (drawn - baseline_drawn).T]),
        variance=variance,
        correlations=correlate(ap - baseline_ap, variance),
    )


def correlate(gain: np.ndarray, variance: np.ndarray) -> tuple[Correlation, ...]:
    """Pearson's and Spearman's correlation, with intervals over classes drawn with replacement.

    Args:
      gain: float64 `[C]`, NaN where there is none.
      variance: the same.

    Raises:
      UserError: fewer than three classes have both.
    """
    from scipy import stats  # slow to import

    known = ~np.isnan(gain) & ~np.isnan(variance)
    gain, variance = gain[known], variance[known]
    if len(gain) < 3:
        raise UserError(
            f"a correlation needs three classes with objects and average precision, but there are "
            f"{len(gain)}: choose the data with --dataset and --split"
        )
    draws = np.random.default_rng(0).integers(len(gain), size=(NUM_DRAWS, len(gain)))
    found = []
    for name, correlation_fn in (("Pearson", stats.pearsonr), ("Spearman", stats.spearmanr)):
        value_fn = functools.partial(_value, correlation_fn)
        drawn = np.array([value_fn(gain[draw], variance[draw]) for draw in draws])
        found.append(
            Correlation(
                name, value_fn(gain, variance), *bootstrap.interval(drawn), num_classes=len(gain)
            )
        )
    return tuple(found)


def _value(correlation_fn: Callable[..., Any], one: np.ndarray, other: np.ndarray) -> float:
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that are nearly equal
        return float(correlation_fn(one, other).statistic)
