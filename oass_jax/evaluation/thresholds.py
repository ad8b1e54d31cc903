"""The probability from which each class is predicted: chosen on labelled images, kept in the run.

0.5 is the best threshold of few classes. Those of the run are in `WORKDIR/thresholds.json`, chosen
for best F1 on its validation split. What they give there is in-sample and so optimistic, as a
training accuracy is; `predicted_by_halves` measures the choice without that.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from oass_jax.evaluation import average_precision
from oass_jax.evaluation.precision_recall import precision_recall, predicted, probability
from oass_jax.run.files import none_for_nan, read_json
from oass_jax.run.workdir import Workdir

WITHOUT_POSITIVES = 0.5


class Thresholds(NamedTuple):
    """A threshold for each class, and what it gives on the images it was chosen on.

    Attributes:
      probability: Float64 [C]; a class is predicted where its probability is this or more.
      precision: Float64 [C], percent; NaN without positives.
      recall: Float64 [C], percent, NaN likewise.
      f1: Float64 [C], percent, NaN likewise.
      positives: Int [C], how many images of the class there were.
      rule: How they were chosen, for people: `best F1`.
      source: On what, for people: `voc/2012 val, 1449 images, step 100, student weights`.
    """

    probability: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    positives: np.ndarray
    rule: str
    source: str


def best_f1(logits: np.ndarray, labels: np.ndarray, *, source: str) -> Thresholds:
    """The threshold of each class's highest F1; of equal ones the highest.

    A threshold lies midway, in probability, between the lowest score it accepts and the next lower
    one (0 below the last), so that it does not hang on one image. A class without positives
    gets 0.5. Ignored labels are in no count.

    Args:
      logits: [N, C], finite.
      labels: [N, C] of 1, 0 or -1.
      source: What the images are, see `Thresholds`.

    Raises:
      ValueError: If the shapes differ, a logit is not finite or a label is something else.
    """
    thresholds = _choose(logits, labels, _highest_f1)
    return _measured(thresholds, logits, labels, rule="best F1", source=source)


def for_precision(
    logits: np.ndarray, labels: np.ndarray, wanted: float, *, source: str
) -> Thresholds:
    """The lowest threshold of each class that has the wanted precision: with it the highest recall.

    Where no threshold has it, the lowest of the highest precision there is; `precision` is then
    below what was wanted. All else is as in `best_f1`.

    Args:
      logits: [N, C], finite.
      labels: [N, C] of 1, 0 or -1.
      wanted: A share, above 0 and at most 1.
      source: What the images are, see `Thresholds`.

    Raises:
      ValueError: As `best_f1`; or the precision is no share.
    """
    if not 0 < wanted <= 1:
        raise ValueError(f"the wanted precision is a share, above 0 and at most 1, not {wanted}")

    def lowest(hits: np.ndarray, num_predicted: np.ndarray) -> int:
        precision = hits / num_predicted
        return np.flatnonzero(precision >= min(wanted, precision.max()))[-1]

    thresholds = _choose(logits, labels, lowest)
    return _measured(thresholds, logits, labels, rule=f"precision >= {wanted:g}", source=source)


def predicted_by_halves(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Predicts each half of the images by the best-F1 thresholds of the other half.

    So no image is decided by its own label, and precision and recall are those to expect of new
    images. The halves are random, always the same ones for the same number of images.

    Args:
      logits: [N, C], finite, in the split's order.
      labels: [N, C] of 1, 0 or -1.

    Returns:
      Bool [N, C].

    Raises:
      ValueError: As `best_f1`.
    """
    # Not a Generator, whose numbers may be others in another version of NumPy.
    halves = np.array_split(np.random.RandomState(0).permutation(len(logits)), 2)
    result = np.zeros(logits.shape, bool)
    for half, other in (halves, halves[::-1]):
        thresholds = _choose(logits[other], labels[other], _highest_f1)
        result[half] = predicted(logits[half], thresholds=thresholds)
    return result


def write(folder: Workdir, class_names: Sequence[str], thresholds: Thresholds) -> None:
    """Writes `thresholds.json`.

    Args:
      folder: The workdir.
      class_names: C names.
      thresholds: Of these classes.
    """
    rows = zip(class_names, *thresholds[:5], strict=True)
    classes = {
        name: {
            "threshold": float(threshold),
            "precision": none_for_nan(precision),
            "recall": none_for_nan(recall),
            "f1": none_for_nan(f1),
            "positives": int(positives),
        }
        for name, threshold, precision, recall, f1, positives in rows
    }
    about = {"source": thresholds.source, "rule": thresholds.rule}
    folder.write_json(folder.thresholds, about | {"classes": classes})


def read(folder: Workdir, class_names: Sequence[str]) -> Thresholds | None:
    """Reads `thresholds.json`.

    Args:
      folder: The workdir.
      class_names: C names, in the order that is wanted.

    Returns:
      None where there is no such file, or a damaged one, or one of other classes.
    """
    value = read_json(folder.thresholds)
    try:
        if value["classes"].keys() != set(class_names):
            return None
        return _parse(value, [value["classes"][name] for name in class_names])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def _parse(value: dict[str, Any], classes: list[dict[str, Any]]) -> Thresholds:
    threshold, precision, recall, f1 = (
        np.array([each[name] for each in classes], np.float64)  # None becomes NaN
        for name in ("threshold", "precision", "recall", "f1")
    )
    if not ((threshold >= 0) & (threshold <= 1)).all():
        raise ValueError("a threshold is no probability")
    positives = np.array([each["positives"] for each in classes], np.int64)
    rule, source = str(value["rule"]), str(value["source"])
    return Thresholds(threshold, precision, recall, f1, positives, rule, source)


def _choose(
    logits: np.ndarray, labels: np.ndarray, choose_fn: Callable[[np.ndarray, np.ndarray], int]
) -> np.ndarray:
    """The threshold of each class.

    Args:
      logits: [N, C].
      labels: [N, C].
      choose_fn: Hits and number of predictions, [K] ascending, with each of the K thresholds from
        the highest down -> index of one; the last threshold has all positives.

    Returns:
      Float64 [C].
    """
    average_precision.check(logits, labels, ndim=2)
    columns = zip(probability(logits).T, labels.T, strict=True)
    return np.array([_choose_one(scores, label, choose_fn) for scores, label in columns])


def _choose_one(scores: np.ndarray, label: np.ndarray, choose_fn: Callable) -> float:
    scores, positive = average_precision.rank(scores, label)
    if not positive.any():
        return WITHOUT_POSITIVES
    # The last of each run of equal scores is the lowest that a threshold accepts.
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    chosen = last[choose_fn(np.cumsum(positive)[last], last + 1)]
    next_lower = scores[chosen + 1] if chosen + 1 < len(scores) else 0.0
    midway = (scores[chosen] + next_lower) / 2
    return midway if midway > next_lower else scores[chosen]  # neighbours among the floats


def _highest_f1(hits: np.ndarray, num_predicted: np.ndarray) -> int:
    """Of equal ones the first: from whole numbers equal ones are equal to the last bit."""
    return np.argmax(2 * hits / (num_predicted + hits[-1]))


def _measured(
    thresholds: np.ndarray, logits: np.ndarray, labels: np.ndarray, *, rule: str, source: str
) -> Thresholds:
    quality = precision_recall(predicted(logits, thresholds=thresholds), labels)
    return Thresholds(
        probability=thresholds,
        precision=quality.precision,
        recall=quality.recall,
        f1=quality.f1,
        positives=(labels == 1).sum(axis=0),
        rule=rule,
        source=source,
    )
