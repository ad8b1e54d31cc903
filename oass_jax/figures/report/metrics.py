"""The numbers of a report: of a run with their intervals, and of two runs against each other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from oass_jax.evaluation import bootstrap, precision_recall, score_files
from oass_jax.evaluation.average_precision import mean
from oass_jax.figures.source import Source

# Draws x images x classes that are computed in about a second.
_WORK = 500_000_000
_MIN_DRAWS, _MAX_DRAWS = 100, 1000
MAX_GAINS = 200


@dataclass(frozen=True)
class Estimate:
    """A number, and the interval that holds 95 % of its values in the draws.

    Attributes:
      value: NaN where it is undefined.
      low: likewise.
      high: likewise.
    """

    value: float
    low: float
    high: float

    @property
    def is_known(self) -> bool:
        """Whether there is a number."""
        return not math.isnan(self.value)


@dataclass(frozen=True)
class ClassNumbers:
    """A class; numbers in percent, but for the threshold.

    Attributes:
      index: of the class.
      name: of the class.
      ap: average precision.
      positives: images that are labelled with it.
      negatives: images that are labelled not to have it.
      threshold: the probability it is predicted from.
      precision: at the threshold, NaN without positives.
      recall: likewise.
      f1: likewise.
    """

    index: int
    name: str
    ap: Estimate
    positives: int
    negatives: int
    threshold: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Numbers:
    """What a run reaches; numbers in percent.

    Attributes:
      map: mean average precision.
      map_voc: the same by VOC's formula, None where it is undefined.
      rules: rule -> CP, CR, CF1, OP, OR and OF1, as `summary.json` has them.
      num_images: N.
      classes: in the order of the scores.
      map_drawn: float64 `[R]`, mAP in every draw.
      ap_drawn: float64 `[R, C]`, average precisions in every draw.
    """

    map: Estimate
    map_voc: float | None
    rules: dict[str, dict[str, float | None]]
    num_images: int
    classes: tuple[ClassNumbers, ...]
    map_drawn: np.ndarray
    ap_drawn: np.ndarray


@dataclass(frozen=True)
class Gain:
    """How a run differs from the first on the same images, in points.

    Attributes:
      name: of a class.
      first: average precision of the first run.
      other: that of the other.
      difference: the other minus the first.
      positives: images that are labelled with the class.
    """

    name: str
    first: float
    other: float
    difference: Estimate
    positives: int


def num_draws(num_images: int, num_classes: int) -> int:
    """As many draws as about a second has time for, 100 to 1000."""
    return min(_MAX_DRAWS, max(_MIN_DRAWS, _WORK // (num_images * num_classes)))


def measure(source: Source, weights: np.ndarray) -> Numbers:
    """Computes the numbers of a run.

    Args:
      source: its evaluation.
      weights: float32 `[N, R]`, see `bootstrap.draw_weights`.
    """
    logits, label, threshold = source.logits, source.label, source.threshold
    summary = score_files.summarize(
        source.class_names,
        logits,
        label,
        threshold=threshold if source.has_thresholds else None,
        thresholds_of=source.thresholds_of,
    )
    ap_drawn = bootstrap.average_precision(logits, label, weights)
    map_drawn = mean(ap_drawn)
    quality = precision_recall.precision_recall(
        precision_recall.predicted(logits, thresholds=threshold), label
    )
    return Numbers(
        map=_mean_estimate(summary["map"], map_drawn),
        map_voc=summary["map_voc"],
        rules=summary["precision_recall"],
        num_images=len(logits),
        classes=tuple(
            ClassNumbers(
                index=c,
                name=name,
                ap=_estimate(summary["ap"][name], ap_drawn[:, c]),
                positives=int((label[:, c] == 1).sum()),
                negatives=int((label[:, c] == 0).sum()),
                threshold=float(threshold[c]),
                precision=float(quality.precision[c]),
                recall=float(quality.recall[c]),
                f1=float(quality.f1[c]),
            )
            for c, name in enumerate(source.class_names)
        ),
        map_drawn=map_drawn,
        ap_drawn=ap_drawn,
    )


def map_gain(first: Numbers, other: Numbers) -> Estimate:
    """The difference of two runs' mAP, on the same images and draws."""
    return _mean_estimate(other.map.value - first.map.value, other.map_drawn - first.map_drawn)


def class_gains(first: Numbers, other: Numbers) -> Sequence[Gain]:
    """The differences of two runs in the classes that have positives, the greatest gain first.

    Of more than `MAX_GAINS` those are returned that differ most.
    """
    drawn = other.ap_drawn - first.ap_drawn
    gains = [
        Gain(
            name=a.name,
            first=a.ap.value,
            other=b.ap.value,
            difference=_estimate(b.ap.value - a.ap.value, drawn[:, a.index]),
            positives=a.positives,
        )
        for a, b in zip(first.classes, other.classes, strict=True)
        if a.ap.is_known
    ]
    gains.sort(key=lambda gain: -abs(gain.difference.value))
    return sorted(gains[:MAX_GAINS], key=lambda gain: -gain.difference.value)


def _estimate(value: float | None, drawn: np.ndarray) -> Estimate:
    return Estimate(math.nan if value is None else value, *bootstrap.interval(drawn))


def _mean_estimate(value: float | None, drawn: np.ndarray) -> Estimate:
    """Of a mean over classes."""
    value = math.nan if value is None else value
    return Estimate(value, *bootstrap.interval(drawn, mean=value))
