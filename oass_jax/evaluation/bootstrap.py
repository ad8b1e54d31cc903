"""Average precision on resampled images: how far a number hangs on the images it is of.

A draw is as many images as there are, with replacement: each counts as often as it was drawn. The
images of a class are ranked once, and a draw is a weighted sum over the ranking; to rank every draw
again would take minutes.
"""

import numpy as np

from oass_jax.evaluation.average_precision import check

CONFIDENCE = 0.95
_AT_ONCE = 250  # draws; the sums of many more leave the cache and take three times as long


def draw_weights(num_images: int, num_draws: int, *, seed: int = 0) -> np.ndarray:
    """How often each image is drawn.

    Args:
      num_images: N.
      num_draws: R.
      seed: the same gives the same draws, which paired differences need.

    Returns:
      float32 `[N, R]`, whole numbers; each column sums to N.
    """
    rng = np.random.default_rng(seed)
    weights = np.empty((num_images, num_draws), np.float32)
    for draw in range(num_draws):
        drawn = rng.integers(num_images, size=num_images)
        weights[:, draw] = np.bincount(drawn, minlength=num_images)
    return weights


def average_precision(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Non-interpolated average precision of every class in every draw.

    With weights of 1 it is `average_precision.average_precision`.

    Args:
      scores: `[N, C]`, finite.
      labels: `[N, C]` of 1, 0 or -1.
      weights: float32 `[N, R]`, see `draw_weights`.

    Returns:
      float64 `[R, C]` percent, NaN where a draw has no positive of the class.

    Raises:
      ValueError: the shapes differ, a score is not finite or a label is something else.
    """
    check(scores, labels, ndim=2)
    columns = [
        _of_class(score, label, weights) for score, label in zip(scores.T, labels.T, strict=True)
    ]
    return np.stack(columns, axis=-1)


def interval(values: np.ndarray, *, mean: float | None = None) -> tuple[float, float]:
    """The central `CONFIDENCE` of the draws: its lower and upper end, NaN where there are none.

    Args:
      values: `[R]` of a number in every draw; NaN where it was undefined.
      mean: what the draws are shifted to have as their mean. An image that is drawn twice raises
        AP, by up to three points for a class of few images. In the mean over many classes that
        exceeds the spread of the draws, so that the interval may not hold the mAP itself. None
        leaves them where they are.
    """
    values = values[~np.isnan(values)]
    if not values.size:
        return float("nan"), float("nan")
    if mean is not None:
        values = values + (mean - values.mean())
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _of_class(score: np.ndarray, label: np.ndarray, weights: np.ndarray) -> np.ndarray:
    ranked = np.flatnonzero(label >= 0)
    ranked = ranked[np.argsort(-score[ranked].astype(np.float64), kind="stable")]
    positive = label[ranked] == 1
    if not positive.any():
        return np.full(weights.shape[1], np.nan)
    # A threshold takes in all images of the same score; those without a positive change nothing.
    group = np.append(0, np.cumsum(np.diff(score[ranked]) != 0))
    ends = np.flatnonzero(np.append(np.diff(group) != 0, True))
    ends = ends[np.unique(group[positive])]
    begins = np.append(0, ends[:-1] + 1)
    ranked, positive = ranked[: ends[-1] + 1], positive[: ends[-1] + 1]
    parts = np.split(weights, range(_AT_ONCE, weights.shape[1], _AT_ONCE), axis=1)
    return np.concatenate([_area(part[ranked], positive, begins) for part in parts])


def _area(drawn: np.ndarray, positive: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """The area of some draws.

    Args:
      drawn: float32 `[M, R]`, how often each image was drawn, in the order of the scores; it is
        written to.
      positive: bool `[M]`.
      begins: `[K]`, where in the order each threshold takes in further images.
    """
    # Sums of whole numbers are exact in float32 as far as 16 million images.
    seen = np.add.reduceat(drawn, begins, axis=0).cumsum(axis=0)
    drawn[~positive] = 0.0
    found = np.add.reduceat(drawn, begins, axis=0)
    hits = found.cumsum(axis=0)
    precision = np.divide(hits, seen, out=np.zeros(seen.shape), where=seen > 0)
    total = hits[-1].astype(np.float64)
    area = (found * precision).sum(axis=0)
    return np.divide(100 * area, total, out=np.full(len(total), np.nan), where=total > 0)
