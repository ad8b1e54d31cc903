"""What a report draws: precision against recall, probabilities against labels, training."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from oass_jax.evaluation.average_precision import rank
from oass_jax.evaluation.precision_recall import predicted, probability
from oass_jax.figures.source import Source
from oass_jax.run.workdir import Workdir

_CURVE_POINTS = 64
_TRAINING_POINTS = 300
_GRID = np.arange(1, 100) / 100
NUM_BINS = 10
NUM_PAIRS = 25


@dataclass(frozen=True)
class Steps:
    """What each threshold of a class gives, for the slider.

    Attributes:
      thresholds: K probabilities, ascending, the run's among them.
      start: number of the run's.
      hits: K counts of predicted positives.
      num_predicted: K counts of predictions.
      positives: how many there are.
    """

    thresholds: tuple[float, ...]
    start: int
    hits: tuple[int, ...]
    num_predicted: tuple[int, ...]
    positives: int


@dataclass(frozen=True)
class Bin:
    """The labels that were predicted with a probability from `low` to `high`.

    Attributes:
      low: of the bin.
      high: of the bin.
      positives: labels that are there.
      negatives: labels that are not.
      predicted: their mean probability, percent; NaN of an empty bin.
    """

    low: float
    high: float
    positives: int
    negatives: int
    predicted: float

    @property
    def count(self) -> int:
        """All labels of the bin."""
        return self.positives + self.negatives

    @property
    def true(self) -> float:
        """How many of them are there, percent; NaN of an empty bin."""
        return 100 * self.positives / self.count if self.count else math.nan


@dataclass(frozen=True)
class Pair:
    """Two classes in one image.

    Attributes:
      names: of the two.
      labelled: images that are labelled with both.
      predicted: images that both are predicted for.
    """

    names: tuple[str, str]
    labelled: int
    predicted: int


def precision_recall_curve(logits: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision where each positive is found, percent; of many an even choice.

    Images of one score are found at once, as average precision counts them.

    Args:
      logits: `[N]` of a class.
      label: `[N]`, 1, 0 or -1.

    Returns:
      Recall, ascending, and precision; both empty without positives.
    """
    scores, positive = rank(logits, label)
    if not positive.any():
        return np.array([]), np.array([])
    hits = np.cumsum(positive)
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    ends = ends[np.diff(hits[ends], prepend=0) > 0]
    ends = ends[_evenly(len(ends), _CURVE_POINTS)]
    return 100 * hits[ends] / hits[-1], 100 * hits[ends] / (ends + 1)


def threshold_steps(source: Source, class_index: int) -> Steps:
    """Counts hits and predictions of a class from each threshold on."""
    own = float(source.threshold[class_index])
    thresholds = np.union1d(_GRID, own)
    label = source.label[:, class_index]
    scores = probability(source.logits[:, class_index])
    return Steps(
        thresholds=tuple(thresholds.tolist()),
        start=int(np.searchsorted(thresholds, own)),
        hits=_at_least(scores[label == 1], thresholds),
        num_predicted=_at_least(scores[label >= 0], thresholds),
        positives=int((label == 1).sum()),
    )


def bins(scores: np.ndarray, label: np.ndarray) -> tuple[Bin, ...]:
    """Counts labels by their probability.

    It is scikit-learn's `calibration_curve` with the counts, which that does not return.

    Args:
      scores: probabilities of any shape.
      label: the same shape, 1, 0 or -1.
    """
    edges = np.linspace(0, 1, NUM_BINS + 1)
    scores, label = scores[label >= 0], label[label >= 0]
    place = np.searchsorted(edges[1:-1], scores)
    count = np.bincount(place, minlength=NUM_BINS)
    positives = np.bincount(place[label == 1], minlength=NUM_BINS)
    total = np.bincount(place, weights=scores, minlength=NUM_BINS)
    mean = np.divide(100 * total, count, out=np.full(NUM_BINS, np.nan), where=count > 0)
    return tuple(
        Bin(float(low), float(high), int(hits), int(num - hits), float(x))
        for low, high, hits, num, x in zip(
            edges[:-1], edges[1:], positives, count, mean, strict=True
        )
    )


def pairs(source: Source) -> tuple[Pair, ...]:
    """The classes that are most often together, in the labels or in the predictions."""
    found = predicted(source.logits, thresholds=source.threshold) & (source.label >= 0)
    labelled, together = (
        np.triu(x.T @ x, k=1) for x in ((source.label == 1).astype(float), found.astype(float))
    )
    often = np.maximum(labelled, together)
    order = np.argsort(-often.ravel(), kind="stable")[:NUM_PAIRS]
    names = source.class_names
    return tuple(
        Pair((names[a], names[b]), int(labelled[a, b]), int(together[a, b]))
        for a, b in zip(*np.unravel_index(order, often.shape), strict=True)
        if often[a, b] > 0
    )


def read_metrics(folder: Workdir) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> steps and values of every metric of `metrics.jsonl`; of many points an even choice.

    A line that is damaged, such as the last one of a run that was killed, is skipped, and so is a
    number that is not finite.
    """
    found: dict[str, dict[int, float]] = {}
    for line in folder.read_bytes(folder.metrics).decode(errors="replace").splitlines():
        try:
            row = json.loads(line)
            step = int(row.pop("step"))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            continue
        for name, value in row.items():
            if isinstance(value, int | float) and math.isfinite(value):
                found.setdefault(name, {})[step] = float(value)
    return {name: _thinned(values) for name, values in found.items()}


def _thinned(values: Mapping[int, float]) -> tuple[np.ndarray, np.ndarray]:
    steps = np.array(sorted(values))[_evenly(len(values), _TRAINING_POINTS)]
    return steps, np.array([values[step] for step in steps.tolist()])


def _evenly(count: int, max_count: int) -> np.ndarray:
    """The numbers below `count`, or of more than `max_count` an even choice with both ends."""
    return np.unique(np.linspace(0, count - 1, min(count, max_count)).round().astype(int))


def _at_least(scores: np.ndarray, thresholds: np.ndarray) -> tuple[int, ...]:
    below = np.searchsorted(np.sort(scores), thresholds, side="left")
    return tuple((len(scores) - below).tolist())
