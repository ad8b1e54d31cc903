"""Fig. 4: what each strategy finds in an image, in its pixels."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from oass_jax.evaluation import keypoints
from oass_jax.evaluation.result import Result
from oass_jax.method import keypoint
from oass_jax.method.keypoint import KeypointInputs

STRATEGIES = ("max", "cmax", "ctopk", "ctopk_w")
WITH_BOXES = "gt_bbox"

Points = tuple[tuple[float, float], ...]


class Marks(NamedTuple):
    """A keypoint and what it was found from; every point is y and x in pixels of the image.

    Attributes:
      strategy: that found it.
      class_name: the class that the image is cut for; '' where one keypoint serves them all.
      keypoint_yx: the keypoint k.
      cut_yx: where the image is cut: k on the grid of cells, away from the border.
      sources_yx: local maxima of the class map, of several classes of their maximum; of 'gt_bbox'
        the centres of the boxes.
    """

    strategy: str
    class_name: str
    keypoint_yx: tuple[float, float]
    cut_yx: tuple[float, float]
    sources_yx: Points


def is_channel_wise(strategy: str) -> bool:
    """Whether a strategy has a keypoint for each class."""
    return keypoint.KEYPOINTS[strategy].channel_wise


def compare(
    result: Result,
    labels: Sequence[str],
    fields: Mapping[str, Any],
    *,
    boxes: np.ndarray | None,
    box_label: np.ndarray | None,
) -> list[Marks]:
    """The marks of each strategy, one after the other; the arguments are those of `find_marks`."""
    strategies = STRATEGIES if boxes is None else (*STRATEGIES, WITH_BOXES)
    return [
        marks
        for strategy in strategies
        for marks in find_marks(result, strategy, labels, fields, boxes=boxes, box_label=box_label)
    ]


def find_marks(
    result: Result,
    strategy: str,
    labels: Sequence[str],
    fields: Mapping[str, Any],
    *,
    boxes: np.ndarray | None = None,
    box_label: np.ndarray | None = None,
) -> list[Marks]:
    """Finds the keypoints of an image with a strategy.

    Args:
      result: what was predicted of the image.
      strategy: a name of `method.keypoint.KEYPOINTS`.
      labels: the classes that keypoints may be of.
      fields: `keypoint` of the run's config.
      boxes: `[M, 4]`, ymin, xmin, ymax, xmax in [0, 1] of the image; None for no boxes.
      box_label: int `[M]`, class of each box.

    Returns:
      As `keypoints.find_cuts`, one for each of its cuts.
    """
    names = list(result.probability)
    maps = result.maps.transpose(1, 2, 0)
    size_cells = tuple(np.divide(result.size, result.cell_px).tolist())
    label = np.array([name in labels for name in names], int)
    cuts = keypoints.find_cuts(
        maps,
        size_cells,
        label,
        strategy=keypoint.bind(strategy, fields),
        margin_cells=fields["margin_cells"],
        boxes=boxes,
        box_label=box_label,
    )
    marks = []
    for cut in cuts:
        classes = np.flatnonzero(label) if cut.class_index is None else [cut.class_index]
        if strategy == WITH_BOXES:
            own = boxes[np.isin(box_label, classes)]
            sources = (own[:, :2] + own[:, 2:]) / 2 * result.size
        else:
            if cut.class_index is None and fields["classes"] == "all":
                classes = np.arange(len(names))
            sources = _local_maxima(maps[..., classes], size_cells, fields) * result.cell_px
        marks.append(
            Marks(
                strategy=strategy,
                class_name="" if cut.class_index is None else names[cut.class_index],
                keypoint_yx=_in_px(cut.keypoint_yx, result),
                cut_yx=_in_px(cut.cut_yx, result),
                sources_yx=tuple(map(tuple, sources.tolist())),
            )
        )
    return marks


def _in_px(cells_yx: tuple[float, float], result: Result) -> tuple[float, float]:
    y, x = np.multiply(cells_yx, result.cell_px).tolist()
    return y, x


def _local_maxima(
    maps: np.ndarray, size_cells: tuple[float, float], fields: Mapping[str, Any]
) -> np.ndarray:
    """Those that `ctopk` would take of the maximum of maps `[h, w, C]`: `[M, 2]`, in cells."""
    cam = keypoints.on_image(maps, size_cells)[None]
    inputs = KeypointInputs(
        cam=jnp.asarray(cam),
        label=jnp.ones((1, cam.shape[-1]), int),
        valid=jnp.ones(cam.shape[:3], bool),
        boxes=jnp.zeros((1, 1, 4)),
        box_label=jnp.full((1, 1), -1),
    )
    value, position = keypoint.local_maxima(inputs, fields["k"], fields["window_cells"])
    return np.asarray(position)[np.asarray(value) > 0] + fields["offset_cells"]
