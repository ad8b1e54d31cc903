"""Precision, recall and F1 of predicted labels, per class and overall, in percent.

The six numbers that multi-label papers print beside mAP (CP, CR, CF1, OP, OR, OF1), by the
definitions of ML-GCN's public code, which its successors report by. There the prediction is
probability >= 0.5, or "top-3": of each image's three highest scores those with probability >= 0.5,
so that an image may have fewer than three. Older papers count all three, whatever their scores.
`evaluation.thresholds` finds each class a threshold of its own.
"""

from typing import NamedTuple

import numpy as np
import scipy.special

from oass_jax.evaluation import average_precision


class PrecisionRecall(NamedTuple):
    """How good the predicted labels are, in percent.

    Attributes:
      cp: Mean of `precision` over the classes that have positives; NaN if there is none.
      cr: Mean of `recall` over the same classes.
      cf1: Harmonic mean of `cp` and `cr`, which is not the mean of `f1`.
      op: Precision over the entries of all classes together; 0 if nothing is predicted.
      or_: Recall over the entries of all classes together.
      of1: Harmonic mean of `op` and `or_`.
      precision: Float64 [C]; 0 for a class that is never predicted, NaN without positives.
      recall: Float64 [C], NaN without positives.
      f1: Float64 [C], the harmonic mean of the two, NaN likewise.
    """

    cp: float
    cr: float
    cf1: float
    op: float
    or_: float
    of1: float
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray

    def overview(self) -> dict[str, float]:
        """The six numbers by the names they have in papers, in lower case."""
        names = ("cp", "cr", "cf1", "op", "or", "of1")
        return dict(zip(names, self[:6], strict=True))


def probability(logits: np.ndarray) -> np.ndarray:
    """The sigmoid of logits in float64, where few of them round to the same value.

    Args:
      logits: of any shape.
    """
    return scipy.special.expit(logits.astype(np.float64))


def predicted(
    logits: np.ndarray, *, thresholds: np.ndarray | None = None, top: int | None = None
) -> np.ndarray:
    """Which labels count as predicted: those whose probability is at or above the threshold.

    Args:
      logits: [N, C], finite.
      thresholds: Float64 [C], probabilities; None for 0.5, which is logit >= 0.
      top: Only the so many highest of each image; of equal ones the first classes.

    Returns:
      Bool [N, C].

    Raises:
      ValueError: If a logit is not finite.
    """
    average_precision.check_finite(logits)
    probable = logits >= 0 if thresholds is None else probability(logits) >= thresholds
    if top is None:
        return probable
    order = np.argsort(-logits.astype(np.float64), axis=1, kind="stable")
    highest = np.zeros_like(probable)
    np.put_along_axis(highest, order[:, :top], True, axis=1)
    return probable & highest


def precision_recall(prediction: np.ndarray, labels: np.ndarray) -> PrecisionRecall:
    """Precision, recall and F1 of predicted labels.

    Ignored labels are in no count; they still take one of the places of `predicted`'s `top`, as
    the prediction does not know of them. Without any positive everything is NaN.

    Deviation: where a class is never predicted, ML-GCN's code adds a wrong prediction to the
    overall count, and where one has no positives its CR is NaN. Here neither happens. Its code also
    counts as negative what is ignored here: on VOC, classes with difficult objects alone.

    Args:
      prediction: Bool [N, C], such as `predicted` returns.
      labels: [N, C] of 1, 0 or -1.

    Raises:
      ValueError: If the shapes differ, the prediction is not bool or a label is something else.
    """
    average_precision.check(prediction, labels, ndim=2)
    if prediction.dtype != bool:
        raise ValueError(f"a prediction is bool, not {prediction.dtype}: see `predicted`")
    is_predicted = prediction & (labels >= 0)
    positive = labels == 1
    counts = (x.sum(axis=0) for x in (is_predicted & positive, is_predicted, positive))
    hits, num_predicted, positives = counts
    recall = _percent(hits, positives, otherwise=np.nan)
    precision = np.where(positives > 0, _percent(hits, num_predicted, otherwise=0.0), np.nan)
    overall_recall = _percent(hits.sum(), positives.sum(), otherwise=np.nan)
    overall_precision = _percent(hits.sum(), num_predicted.sum(), otherwise=0.0)
    if not positive.any():
        overall_precision = np.nan
    means = average_precision.mean(precision), average_precision.mean(recall)
    cp, cr, op, or_ = map(float, (*means, overall_precision, overall_recall))
    return PrecisionRecall(
        cp=cp,
        cr=cr,
        cf1=float(_harmonic_mean(cp, cr)),
        op=op,
        or_=or_,
        of1=float(_harmonic_mean(op, or_)),
        precision=precision,
        recall=recall,
        f1=_harmonic_mean(precision, recall),
    )


def _percent(part: np.ndarray, whole: np.ndarray, *, otherwise: float) -> np.ndarray:
    """100 part / whole, and what stands where the whole is 0."""
    return np.where(whole > 0, 100 * part / np.maximum(whole, 1), otherwise)


def _harmonic_mean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """0 where both are 0, NaN where one is."""
    total = np.asarray(a + b)
    return 2 * a * b / np.where(total == 0, 1, total)
