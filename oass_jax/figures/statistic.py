"""Means over seeds, and differences of two experiments over the seeds they have in common."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Paired:
    """The mean difference over common seeds and its confidence interval, in points of mAP."""

    num_seeds: int
    mean: float
    low: float
    high: float


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and the sample's standard deviation (n - 1), None for a single value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def paired_difference(one: Mapping[int, float], other: Mapping[int, float]) -> Paired | None:
    """The mean of one minus other over common seeds, with Student's t interval.

    Args:
      one: seed -> mAP.
      other: the same of what it is compared with.

    Returns:
      None where fewer than two seeds are common.
    """
    # Slow to import, and errors of the command line are reported without it.
    from scipy import stats

    seeds = sorted(one.keys() & other.keys())
    if len(seeds) < 2:
        return None
    values = [[maps[seed] for seed in seeds] for maps in (one, other)]
    with warnings.catch_warnings():
        # Of equal differences, whose interval is a point.
        warnings.simplefilter("ignore", RuntimeWarning)
        interval = stats.ttest_rel(*values).confidence_interval(CONFIDENCE)
    mean = float(np.mean(values[0]) - np.mean(values[1]))
    return Paired(len(seeds), mean, float(interval.low), float(interval.high))
