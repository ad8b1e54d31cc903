"""Average precision of ranked images, in the field's two conventions, in percent.

A label is 1 (positive), 0 (negative) or -1 (ignored: the entry is not in the ranking, as
official VOC does with images whose only objects of the class are difficult).
"""

from typing import NamedTuple

import numpy as np


class MeanAveragePrecision(NamedTuple):
    """Average precision of every class, and its mean over the classes that have positives.

    Attributes:
      map: Mean of `ap`, in percent. NaN if no class has a positive.
      map_voc: Mean of `ap_voc`, likewise.
      ap: Float64 [C], non-interpolated, NaN for a class without positives.
      ap_voc: Float64 [C], VOC2010+ interpolated, NaN likewise.
      absent: Indices of the classes without positives.
    """

    map: float
    map_voc: float
    ap: np.ndarray
    ap_voc: np.ndarray
    absent: tuple[int, ...]


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> MeanAveragePrecision:
    """Both average precisions of every class and their means.

    Args:
      scores: [N, C], finite.
      labels: [N, C] of 1, 0 or -1.

    Raises:
      ValueError: If the shapes differ, a score is not finite or a label is something else.
    """
    check(scores, labels, ndim=2)
    classes = range(scores.shape[1])
    ap = np.array([average_precision(scores[:, c], labels[:, c]) for c in classes])
    ap_voc = np.array([average_precision_voc(scores[:, c], labels[:, c]) for c in classes])
    absent = tuple(np.flatnonzero(np.isnan(ap)).tolist())
    return MeanAveragePrecision(mean(ap), mean(ap_voc), ap, ap_voc, absent)


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Non-interpolated average precision: the sum over thresholds of (R_n - R_{n-1}) P_n.

    This is scikit-learn's `average_precision_score`. A threshold takes in all images of the same
    score at once, so the result does not depend on the order of the images, ties or not.

    Args:
      scores: [N], finite.
      labels: [N] of 1, 0 or -1.

    Returns:
      Percent; NaN without positives.

    Raises:
      ValueError: If the shapes differ, a score is not finite or a label is something else.
    """
    scores, positive = rank(scores, labels)
    if not positive.any():
        return float("nan")
    # The last of each run of equal scores is where a threshold can lie.
    last = np.append(scores[1:] != scores[:-1], True)
    precision, recall = _curve(positive)
    return 100 * float(np.sum(np.diff(recall[last], prepend=0) * precision[last]))


def average_precision_voc(scores: np.ndarray, labels: np.ndarray) -> float:
    """VOC2010+ average precision: the area under the precision envelope at every recall.

    As in the official development kit, images of the same score are ranked one by one in their
    given order (the sort is stable).

    Args:
      scores: [N], finite.
      labels: [N] of 1, 0 or -1.

    Returns:
      Percent; NaN without positives.

    Raises:
      ValueError: If the shapes differ, a score is not finite or a label is something else.
    """
    _, positive = rank(scores, labels)
    if not positive.any():
        return float("nan")
    precision, recall = _curve(positive)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return 100 * float(np.sum(np.diff(recall, prepend=0) * envelope))


def rank(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores in descending order and whether each is a positive, without the ignored.

    Args:
      scores: [N], finite.
      labels: [N] of 1, 0 or -1.

    Returns:
      Float and bool, [M], M <= N; of equal scores the first image is first.

    Raises:
      ValueError: If the shapes differ, a score is not finite or a label is something else.
    """
    check(scores, labels, ndim=1)
    scores, labels = scores[labels >= 0], labels[labels >= 0]
    order = np.argsort(-scores.astype(np.float64), kind="stable")
    return scores[order], labels[order] == 1


def _curve(positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall after each rank."""
    hits = np.cumsum(positive)
    return hits / np.arange(1, len(hits) + 1), hits / hits[-1]


def mean(values: np.ndarray) -> np.ndarray:
    """The mean over the classes that have a value.

    Args:
      values: float `[..., C]`, NaN for a class that has none.

    Returns:
      float `[...]`; NaN, without numpy's warning, where no class has one.
    """
    known = ~np.isnan(values)
    total, count = np.where(known, values, 0.0).sum(axis=-1), known.sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)[()]


def check(scores: np.ndarray, labels: np.ndarray, *, ndim: int) -> None:
    """Refuses what no metric can be computed of.

    Args:
      scores: of any shape with `ndim` axes, finite.
      labels: the same shape, of 1, 0 or -1.
      ndim: number of axes.

    Raises:
      ValueError: If the shapes differ, a score is not finite or a label is something else.
    """
    if scores.ndim != ndim or scores.shape != labels.shape:
        raise ValueError(
            f"scores {scores.shape} and labels {labels.shape} must have one shape of {ndim} axes"
        )
    check_finite(scores)
    if not np.isin(labels, (1, 0, -1)).all():
        raise ValueError(f"labels must be 1, 0 or -1, not {np.setdiff1d(labels, (1, 0, -1))}")


def check_finite(scores: np.ndarray) -> None:
    """Refuses scores that have no order.

    Args:
      scores: of any shape.

    Raises:
      ValueError: If one is not finite.
    """
    if not np.isfinite(scores).all():
        raise ValueError(f"{np.sum(~np.isfinite(scores))} of {scores.size} scores are not finite")
