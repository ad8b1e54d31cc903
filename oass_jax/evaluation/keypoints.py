"""Keypoints of images that are evaluated: where the run's method would cut them (Sec. 2.1)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from oass_jax.method.keypoint import KeypointInputs, Strategy, cut_position


class Cut(NamedTuple):
    """Where an image is cut.

    Attributes:
      class_index: the class it is cut for; None where the image has one keypoint.
      keypoint_yx: the keypoint in cells from the image's top left corner, not yet rounded.
      cut_yx: row and column of cells at which the lower and the right patches begin.
    """

    class_index: int | None
    keypoint_yx: tuple[float, float]
    cut_yx: tuple[int, int]


def find_cuts(
    maps: np.ndarray,
    size_cells: tuple[float, float],
    label: np.ndarray,
    *,
    strategy: Strategy,
    margin_cells: int,
    boxes: np.ndarray | None = None,
    box_label: np.ndarray | None = None,
    seed: int = 0,
) -> list[Cut]:
    """Finds the keypoints of an image as training does, on the image alone.

    A training image lies somewhere on a canvas, and its patches hold padding, too. Here the canvas
    ends with the image: at the last cell whose centre is on it.

    Args:
      maps: `[h, w, C]` float32, raw class maps, the image at their top left.
      size_cells: height and width of the image in cells.
      label: `[C]`, 1 for the classes that keypoints may be of.
      strategy: from `method.keypoint.bind`.
      margin_cells: min height and width of a patch; less on an image that is too small for it.
      boxes: `[M, 4]` float, ymin, xmin, ymax, xmax in [0, 1] of the image; None for no boxes.
      box_label: int `[M]`, class of each box, -1 for none.
      seed: of strategies that draw.

    Returns:
      One cut, or of a channel-wise strategy one for each label; none where the image is less than
      two cells high or wide.
    """
    cam = on_image(maps, size_cells)
    margin = min(margin_cells, *(side // 2 for side in cam.shape[:2]))
    channels = np.flatnonzero(np.asarray(label) == 1)
    if margin < 1 or (strategy.channel_wise and not len(channels)):
        return []
    if boxes is None or box_label is None:
        boxes, box_label = np.zeros((1, 4), np.float32), np.array([-1])
    inputs = KeypointInputs(
        cam=cam[None],
        label=np.asarray(label)[None],
        valid=np.ones((1, *cam.shape[:2]), bool),
        boxes=(boxes * np.tile(np.divide(size_cells, cam.shape[:2]), 2))[None],
        box_label=np.asarray(box_label)[None],
        rng=jax.random.split(jax.random.PRNGKey(seed), 1),
    )
    if strategy.channel_wise:
        inputs = _of_each_class(inputs, channels)
    points = strategy.keypoint_fn(jax.tree.map(jnp.asarray, inputs))
    positions = cut_position(points, cam.shape[:2], margin)
    classes = channels.tolist() if strategy.channel_wise else [None]
    found = zip(classes, points.tolist(), positions.tolist(), strict=True)
    return [Cut(class_index, tuple(point), tuple(cut)) for class_index, point, cut in found]


def on_image(maps: np.ndarray, size_cells: tuple[float, float]) -> np.ndarray:
    """The cells whose centres are on the image: `[h, w, C]` -> `[rows, columns, C]`.

    Args:
      maps: the image at their top left.
      size_cells: height and width of the image in cells.
    """
    # As `geometry.centres_inside`; rounded, since the sizes come of a division.
    rows, columns = (int(np.ceil(round(float(size), 6) - 0.5)) for size in size_cells)
    return maps[:rows, :columns]


def _of_each_class(inputs: KeypointInputs, channels: np.ndarray) -> KeypointInputs:
    """The inputs of one image, once for each class and with that class alone."""
    each = jax.tree.map(lambda x: np.repeat(np.asarray(x), len(channels), axis=0), inputs)
    return each._replace(
        cam=inputs.cam[0, :, :, channels][..., None],
        label=np.ones((len(channels), 1), int),
        box_label=np.where(each.box_label == channels[:, None], 0, -1),
    )
