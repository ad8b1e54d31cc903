"""Means over seeds, and differences of two experiments over the seeds they have in common."""

import math
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
    # Slow to import, and the command's mistakes are told without it.
    from scipy.special import stdtrit

    seeds = sorted(one.keys() & other.keys())
    if len(seeds) < 2:
        return None
    mean, std = mean_and_std([one[seed] - other[seed] for seed in seeds])
    margin = float(stdtrit(len(seeds) - 1, (1 + CONFIDENCE) / 2)) * std / math.sqrt(len(seeds))
    return Paired(len(seeds), mean, mean - margin, mean + margin)
