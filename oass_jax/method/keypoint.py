"""Class maps -> the keypoint at which the image is cut (Sec. 2.1, Eq. 1).

A strategy is a function in `KEYPOINTS` from a `Scene` to one point an image, in cells. A point
(i, j) is the upper left corner of cell (i, j), so whole numbers lie on the grid of the encoder's
stride. `cut_position` turns it into a legal cut.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Scene(NamedTuple):
    """What a keypoint may be found from.

    Attributes:
      cam: `[B, h, w, C]` float32, raw class maps of the full image, without gradient.
        Deviation: not PuzzleCAM's maps, each divided by its own maximum: there every class peaks
        at 1 and the maximum over classes in Eq. 1 would be decided by rounding.
      label: `[B, C]`, 1 for the classes that are present.
      valid: `[B, h, w]` bool, cells that may be chosen.
    """

    cam: jax.Array
    label: jax.Array
    valid: jax.Array


def center(scene: Scene) -> jax.Array:
    """The middle of the canvas, whatever is on it: PuzzleCAM.

    Returns:
      `[B, 2]` float32, y and x in cells.
    """
    num_images, height, width, _ = scene.cam.shape
    return jnp.broadcast_to(jnp.array([height / 2, width / 2], jnp.float32), (num_images, 2))


def max_peak(scene: Scene, *, classes: str, offset_cells: float) -> jax.Array:
    """The peak of the merged class map (Eq. 1, `Max`).

    Deviation: Eq. 1 takes the maximum over all C classes; with `classes='labelled'` those of the
    image's labels are merged, since a class that is not there has nothing to cut. Where no class
    responds (no label, no positive value, no valid cell) the point is the centre.

    Args:
      scene: the maps.
      classes: 'labelled' or 'all'.
      offset_cells: added to the cell's upper left corner; 0.5 is its centre.

    Returns:
      `[B, 2]` float32, y and x in cells. Of equal peaks the first in reading order.
    """
    response = jax.nn.relu(scene.cam)
    if classes == "labelled":
        response *= (scene.label > 0)[:, None, None, :]
    merged = response.max(axis=-1) * scene.valid
    num_images, _, width = merged.shape
    flat = merged.reshape(num_images, -1)
    peak = flat.argmax(axis=-1)
    peak_yx = jnp.stack([peak // width, peak % width], axis=-1) + offset_cells
    return jnp.where(flat.max(axis=-1, keepdims=True) > 0, peak_yx, center(scene))


# Name -> strategy. Its keyword-only parameters are fields of `config.keypoint`.
KEYPOINTS: dict[str, Callable[..., jax.Array]] = {"center": center, "max": max_peak}


def bind(strategy: str, fields: Mapping[str, Any]) -> Callable[[Scene], jax.Array]:
    """A strategy with the options it takes.

    Args:
      strategy: a key of `KEYPOINTS`.
      fields: name -> value, at least of the strategy's keyword-only parameters.
    """
    keypoint_fn = KEYPOINTS[strategy]
    _, *options = inspect.signature(keypoint_fn).parameters
    return functools.partial(keypoint_fn, **{name: fields[name] for name in options})


def cut_position(point_yx: jax.Array, shape: tuple[int, int], margin_cells: int) -> jax.Array:
    """Rounds a point to the grid (half up) and keeps it away from the border.

    Deviation: the paper does not say what happens at the border, where a patch would be empty.

    Args:
      point_yx: `[B, 2]` float, y and x in cells.
      shape: h and w of the map, each at least `2 * margin_cells`.
      margin_cells: least height and width of a patch, at least 1.

    Returns:
      `[B, 2]` int32, the row and the column of cells at which the lower and the right patches
      begin.
    """
    cut = jnp.floor(point_yx + 0.5).astype(jnp.int32)
    return jnp.clip(cut, margin_cells, jnp.array(shape, jnp.int32) - margin_cells)
