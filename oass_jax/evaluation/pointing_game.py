"""Class maps against boxes: does each map peak on an object of its class? (Zhang et al., 2016)"""

import numpy as np


def count_hits(
    maps: np.ndarray,
    classes: np.ndarray,
    boxes: np.ndarray,
    box_label: np.ndarray,
    *,
    num_classes: int,
) -> np.ndarray:
    """Counts the maps of an image whose peak lies in a box of their class.

    Deviation: the authors count a peak up to 15 pixels outside, too.

    Args:
      maps: `[K, height, width]`.
      classes: int `[K]`, the class of each map.
      boxes: `[M, 4]`, ymin, xmin, ymax, xmax in [0, 1] of the image.
      box_label: int `[M]`, class of each box.
      num_classes: C.

    Returns:
      int64 `[C, 2]`: hits and misses of each class. A map that is zero everywhere misses; one
      without a box of its class is neither. Counts of several images may be added.
    """
    counts = np.zeros((num_classes, 2), np.int64)
    _, height, width = maps.shape
    for class_index, class_map in zip(classes, maps, strict=True):
        own = boxes[box_label == class_index]
        if not len(own):
            continue
        peak = np.unravel_index(class_map.argmax(), class_map.shape)
        y, x = (np.array(peak) + 0.5) / (height, width)
        inside = (own[:, 0] <= y) & (own[:, 1] <= x) & (y <= own[:, 2]) & (x <= own[:, 3])
        hit = class_map[peak] > 0 and inside.any()
        counts[class_index, int(not hit)] += 1
    return counts


def accuracy(counts: np.ndarray) -> np.ndarray:
    """Hits of each class in percent, float64 `[C]`; NaN for a class without maps to judge.

    Args:
      counts: sum of `count_hits` over the images.
    """
    total = counts.sum(axis=1)
    share = np.full(len(counts), np.nan)
    return np.divide(100.0 * counts[:, 0], total, out=share, where=total > 0)
