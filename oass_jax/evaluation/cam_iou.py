"""Class maps against segmentation masks: intersection over union at every background threshold.

A pixel is predicted to be the class whose map is highest there if that value is above the
threshold, else background. Class 0 is the background, class c of the labels is c + 1, and pixels
whose truth is void count nowhere.
"""

from typing import NamedTuple

import numpy as np

from oass_jax.data.segmentation_mask import VOID
from oass_jax.evaluation.average_precision import mean


class Segmentation(NamedTuple):
    """How well the maps fit the masks, in percent.

    The intersection of a class and what is falsely predicted and falsely missed are shares of its
    union, so the three add up to 100. They are NaN for a class that occurs neither in the truth nor
    in the prediction at that threshold, and means are over the other classes.

    Attributes:
      thresholds: float32 `[T]`.
      iou: float64 `[T, C + 1]`, intersection over union.
      false_positive: float64 `[T, C + 1]`, predicted to be the class but not of it.
      false_negative: float64 `[T, C + 1]`, of the class but not predicted to be.
      miou: float64 `[T]`, the mean of `iou`; NaN if no pixel counts.
      best: index of the threshold with the highest `miou`, the lowest of equals.
      absent: indices of the classes that are not in the mean at the best threshold.
    """

    thresholds: np.ndarray
    iou: np.ndarray
    false_positive: np.ndarray
    false_negative: np.ndarray
    miou: np.ndarray
    best: int
    absent: tuple[int, ...]


def even_thresholds(num: int) -> np.ndarray:
    """`num` thresholds from 0 in equal steps below 1, float32."""
    return (np.arange(num) / num).astype(np.float32)


def count_pixels(
    maps: np.ndarray,
    classes: np.ndarray,
    truth: np.ndarray,
    *,
    thresholds: np.ndarray,
    num_classes: int,
) -> np.ndarray:
    """Counts the pixels of an image by their truth, highest class and the thresholds it exceeds.

    Counts of several images may be added; they hold the confusion matrix of every threshold.

    Args:
      maps: `[K, height, width]`, at least 0.
      classes: int `[K]`, the class of each map.
      truth: uint8 `[height, width]`, 0 for background, class + 1, or `VOID`.
      thresholds: `[T]`, at least 0, ascending, of the dtype of the maps.
      num_classes: C.

    Returns:
      int64 `[C + 1, C + 1, T + 1]`: pixels by truth, by class of the highest map (the first of
      equals; 0 without maps) and by how many thresholds are below its value.
    """
    highest, value = np.zeros(truth.shape, np.int64), np.zeros(truth.shape, maps.dtype)
    if len(classes):
        highest, value = classes[maps.argmax(axis=0)] + 1, maps.max(axis=0)
    shape = (num_classes + 1, num_classes + 1, len(thresholds) + 1)
    counted = truth != VOID
    below = np.searchsorted(thresholds, value[counted])  # strictly: equal is background
    cells = np.ravel_multi_index((truth[counted], highest[counted], below), shape)
    return np.bincount(cells, minlength=np.prod(shape)).reshape(shape)


def score(counts: np.ndarray, thresholds: np.ndarray) -> Segmentation:
    """Intersection over union of every class at every threshold.

    Args:
      counts: sum of `count_pixels` over the images.
      thresholds: those of `count_pixels`.
    """
    # [C + 1, C + 1, T]: pixels whose highest map is above the threshold, by truth and prediction.
    above = counts[..., :0:-1].cumsum(axis=-1)[..., ::-1]
    truth = counts.sum(axis=(1, 2))[:, None]
    hits = np.diagonal(above).T.copy()
    predicted = above.sum(axis=0)
    hits[0] = truth[0] - above[0].sum(axis=0)
    predicted[0] = truth.sum() - predicted.sum(axis=0)
    union = truth + predicted - hits

    def percent(pixels: np.ndarray) -> np.ndarray:
        share = np.full(union.shape, np.nan)
        np.divide(100.0 * pixels, union, out=share, where=union > 0)
        return share.T

    iou = percent(hits)
    miou = mean(iou)
    best = int(np.argmax(np.nan_to_num(miou, nan=-1.0)))
    return Segmentation(
        thresholds=thresholds,
        iou=iou,
        false_positive=percent(predicted - hits),
        false_negative=percent(truth - hits),
        miou=miou,
        best=best,
        absent=tuple(np.flatnonzero(np.isnan(iou[best])).tolist()),
    )
