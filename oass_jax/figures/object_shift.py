"""Fig. 2: how far the objects of each class lie from the middle of their images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from oass_jax.data.example import Split
from oass_jax.errors import UserError

SIDE_PX = 512  # images are thought of as scaled to such a square

HEADER = (
    *("class", "objects", "mean_abs_dx_px", "std_abs_dx_px"),
    *("mean_abs_dy_px", "std_abs_dy_px", "variance_px2"),
)


@dataclass(frozen=True)
class ObjectShift:
    """How far objects lie from the middle of their images, in pixels of an image of `SIDE_PX`.

    Attributes:
      class_names: C names.
      count: int `[C]`, objects.
      mean_abs_yx: float64 `[C, 2]`, mean of |Δy_c| and |Δx_c|; NaN for a class without objects.
      std_abs_yx: float64 `[C, 2]`, their standard deviation, NaN likewise.
      variance: float64 `[C]`, px², the variance of Δy_c plus that of Δx_c, NaN likewise.
        Deviation: the paper does not say what its Fig. 6 calls the variance of the shift. This one
        is of where the objects lie: it is 0 for a class that is always at the same place.
      overall_yx: float64 `[2]`, mean of |Δy_c| and |Δx_c| over all objects.
    """

    class_names: tuple[str, ...]
    count: np.ndarray
    mean_abs_yx: np.ndarray
    std_abs_yx: np.ndarray
    variance: np.ndarray
    overall_yx: np.ndarray

    def rows(self) -> list[list[Any]]:
        """The numbers as rows of CSV, in the columns of `HEADER`."""
        mean, std = self.mean_abs_yx.tolist(), self.std_abs_yx.tolist()
        return [
            [name, count, mean[c][1], std[c][1], mean[c][0], std[c][0], float(self.variance[c])]
            for c, (name, count) in enumerate(
                zip(self.class_names, self.count.tolist(), strict=True)
            )
        ]


def of_split(split: Split) -> ObjectShift:
    """Measures the objects of a split, difficult ones too; no image is decoded.

    Args:
      split: of a data set with boxes.

    Raises:
      UserError: it has no boxes, or an image cannot be read.
    """
    records = split.source if split.has_boxes else ()
    found = [
        (split.boxes(record), np.asarray(record["objects"]["label"], int))
        for record in records
        if len(record["objects"]["label"])
    ]
    if not found:
        raise UserError(f"{split.name} {split.split} has no boxes: choose a data set that has them")
    boxes, labels = map(np.concatenate, zip(*found, strict=True))
    return of_boxes(boxes, labels, split.class_names)


def of_boxes(boxes: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> ObjectShift:
    """Measures boxes.

    Args:
      boxes: `[N, 4]` ymin, xmin, ymax, xmax in [0, 1] of the image.
      labels: int `[N]`.
      class_names: C names.
    """
    shift_yx = ((boxes[:, :2] + boxes[:, 2:]) / 2 - 0.5) * SIDE_PX
    num_classes = len(class_names)
    mean, std = np.full((2, num_classes, 2), np.nan)
    variance = np.full(num_classes, np.nan)
    for c in np.unique(labels):
        own = shift_yx[labels == c]
        mean[c], std[c] = np.abs(own).mean(axis=0), np.abs(own).std(axis=0)
        variance[c] = own.var(axis=0).sum()
    return ObjectShift(
        class_names=tuple(class_names),
        count=np.bincount(labels, minlength=num_classes),
        mean_abs_yx=mean,
        std_abs_yx=std,
        variance=variance,
        overall_yx=np.abs(shift_yx).mean(axis=0),
    )
