"""Class maps -> the keypoint at which the image is cut (Sec. 2.1, Eq. 1).

A strategy is a function from `KeypointInputs` to one point for each example, in cells, and says
whether its examples are images or, channel-wise, (image, class) pairs. A point (i, j) is the upper
left corner of cell (i, j), so whole numbers lie on the grid of the encoder's stride. `cut_position`
turns it into a legal cut.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class KeypointInputs(NamedTuple):
    """What keypoints may be found from: one for each of N examples.

    An example is an image with its C classes, or one (image, class) pair, which is an image with a
    single class: K is C or 1.

    Attributes:
      cam: `[N, h, w, K]` float32, raw class maps of the full image, without gradient.
        Deviation: not PuzzleCAM's maps, each divided by its own maximum: there every class peaks
        at 1 and the maximum over classes in Eq. 1 would be decided by rounding.
      label: `[N, K]`, 1 for the classes that are present.
      valid: `[N, h, w]` bool, cells that may be chosen: by default those of the image.
        Deviation: the paper does not say what happens in the padding. A cell is the image's where
        its centre is, not where the two overlap.
      boxes: `[N, M, 4]` float, ymin, xmin, ymax, xmax in [0, 1] of the canvas.
      box_label: `[N, M]` int, class of each box among the K, -1 for an unused slot.
      rng: `[N]` keys, of an example's own draws; None where no strategy draws.
    """

    cam: jax.Array
    label: jax.Array
    valid: jax.Array
    boxes: jax.Array
    box_label: jax.Array
    rng: jax.Array | None = None


class Strategy(NamedTuple):
    """A way to find keypoints.

    Attributes:
      keypoint_fn: `KeypointInputs` -> `[N, 2]` float32, y and x in cells.
      channel_wise: examples are (image, class) pairs, each with patches and losses of its own; else
        images.
    """

    keypoint_fn: Callable[..., jax.Array]
    channel_wise: bool


def center(inputs: KeypointInputs) -> jax.Array:
    """The middle of the canvas, whatever is on it: PuzzleCAM.

    Returns:
      `[N, 2]` float32, y and x in cells.
    """
    num_examples, height, width, _ = inputs.cam.shape
    return jnp.broadcast_to(jnp.array([height / 2, width / 2], jnp.float32), (num_examples, 2))


def max_peak(inputs: KeypointInputs, *, classes: str, offset_cells: float) -> jax.Array:
    """The peak of the merged class map (Eq. 1, `Max`).

    Deviation: Eq. 1 takes the maximum over all C classes; with `classes='labelled'` those of the
    image's labels are merged, since a class that is not there has nothing to cut. Where there is
    nothing to choose from (no label, no valid cell) the point is the centre.

    Args:
      inputs: examples are images.
      classes: 'labelled' or 'all'.
      offset_cells: added to the cell's upper left corner; 0.5 is its centre.

    Returns:
      `[N, 2]` float32, y and x in cells. Of equal peaks the first in reading order.
    """
    merged = (inputs.label > 0) | (classes == "all")
    allowed = inputs.valid[..., None] & merged[:, None, None, :]
    values = jnp.where(allowed, inputs.cam, -jnp.inf).max(axis=-1)
    num_examples, _, width = values.shape
    flat = values.reshape(num_examples, -1)
    peak_yx = _position(flat.argmax(axis=-1), width) + offset_cells
    return jnp.where(flat.max(axis=-1, keepdims=True) > -jnp.inf, peak_yx, center(inputs))


def random_cell(inputs: KeypointInputs, *, offset_cells: float) -> jax.Array:
    """Any valid cell, each as likely: a control for `max`, which knows nothing of the objects.

    Where no cell is valid the point is the centre.

    Args:
      inputs: examples are images; `rng` is read.
      offset_cells: as in `max_peak`.

    Returns:
      `[N, 2]` float32, y and x in cells.
    """
    num_examples, _, width = inputs.valid.shape
    valid = inputs.valid.reshape(num_examples, -1)
    index = jax.vmap(jax.random.categorical)(inputs.rng, jnp.where(valid, 0.0, -jnp.inf))
    point = _position(index, width) + offset_cells
    return jnp.where(valid.any(axis=-1, keepdims=True), point, center(inputs))


def channel_peak(inputs: KeypointInputs, *, offset_cells: float) -> jax.Array:
    """The peak of the class's own map (`cMax`): Eq. 1 where it is the only class.

    Args:
      inputs: examples are (image, class) pairs.
      offset_cells: as in `max_peak`.
    """
    return max_peak(inputs, classes="all", offset_cells=offset_cells)


def channel_topk(
    inputs: KeypointInputs, *, k: int, window_cells: int, offset_cells: float
) -> jax.Array:
    """The mean position of the k highest local maxima (`cTopk`).

    Deviation: the paper does not say what a local maximum is, nor what happens where there are
    fewer than k. Here it is a positive value that no value in the window around it exceeds; the
    mean is over those there are; and where there is none it is the peak, as in `channel_peak`.

    Args:
      inputs: examples are (image, class) pairs.
      k: max number of local maxima that count.
      window_cells: side of the square around a local maximum, odd.
      offset_cells: as in `max_peak`.

    Returns:
      `[N, 2]` float32, y and x in cells, not yet rounded.
    """
    value, position = local_maxima(inputs, k, window_cells)
    return _mean_position(inputs, (value > 0) * 1.0, position, offset_cells)


def channel_topk_weighted(
    inputs: KeypointInputs, *, k: int, window_cells: int, offset_cells: float, literal_eq: bool
) -> jax.Array:
    """The mean position of the k highest local maxima, weighted by their values (`cTopk-w`).

    Deviation: as printed the weights sum to 1 and their sum is divided by k once more, which draws
    the point to the upper left corner. Without `literal_eq` it is not.

    Args:
      inputs: examples are (image, class) pairs.
      k: max number of local maxima that count.
      window_cells: as in `channel_topk`.
      offset_cells: as in `max_peak`.
      literal_eq: divide by the number of local maxima as printed.

    Returns:
      `[N, 2]` float32, y and x in cells, not yet rounded.
    """
    value, position = local_maxima(inputs, k, window_cells)
    point = _mean_position(inputs, value, position, offset_cells)
    if literal_eq:
        count = jnp.maximum((value > 0).sum(axis=-1, keepdims=True), 1)
        point = (point - offset_cells) / count + offset_cells
    return point


def local_maxima(inputs: KeypointInputs, k: int, window_cells: int) -> tuple[jax.Array, jax.Array]:
    """The highest local maxima, of which `channel_topk` is the mean.

    A valid cell beside the padding is compared with valid cells only. Equal neighbours all count.

    Args:
      inputs: of which `cam` is merged over its classes.
      k: max number of local maxima.
      window_cells: as in `channel_topk`.

    Returns:
      Values `[N, k]`, 0 beyond the last one, and positions `[N, k, 2]`, y and x in cells.
    """
    values = jnp.where(inputs.valid, inputs.cam.max(axis=-1), -jnp.inf)
    window = (1, window_cells, window_cells)
    highest = jax.lax.reduce_window(values, -jnp.inf, jax.lax.max, window, (1, 1, 1), "SAME")
    peaks = jnp.where((values == highest) & (values > 0), values, 0.0)
    num_examples, height, width = peaks.shape
    # Pairs never cross devices, where top_k would gather the whole map.
    value, index = jax.lax.top_k(peaks.reshape(num_examples, -1), min(k, height * width))
    return value, _position(index, width)


def box_center(inputs: KeypointInputs) -> jax.Array:
    """The mean of the centres of the class's boxes (`gt-bbox`, the paper's upper bound).

    Deviation: the paper does not say what several boxes of a class become. Where no box is left on
    the canvas the point is the centre.

    Args:
      inputs: examples are (image, class) pairs.

    Returns:
      `[N, 2]` float32, y and x in cells, not yet rounded.
    """
    _, height, width, _ = inputs.cam.shape
    box_yx = (inputs.boxes[..., :2] + inputs.boxes[..., 2:]) / 2 * jnp.array([height, width])
    weight = (inputs.box_label >= 0) * 1.0
    total = weight.sum(axis=-1, keepdims=True)
    mean = (weight[..., None] * box_yx).sum(axis=1) / jnp.maximum(total, 1.0)
    return jnp.where(total > 0, mean, center(inputs))


# Name -> strategy. The keyword-only parameters of its function are fields of `config.keypoint`.
KEYPOINTS: dict[str, Strategy] = {
    "center": Strategy(center, channel_wise=False),
    "random": Strategy(random_cell, channel_wise=False),
    "max": Strategy(max_peak, channel_wise=False),
    "cmax": Strategy(channel_peak, channel_wise=True),
    "ctopk": Strategy(channel_topk, channel_wise=True),
    "ctopk_w": Strategy(channel_topk_weighted, channel_wise=True),
    "gt_bbox": Strategy(box_center, channel_wise=True),
}


def bind(name: str, fields: Mapping[str, Any]) -> Strategy:
    """A strategy with the options it takes.

    Args:
      name: a key of `KEYPOINTS`.
      fields: name -> value, at least of the function's keyword-only parameters.
    """
    strategy = KEYPOINTS[name]
    _, *options = inspect.signature(strategy.keypoint_fn).parameters
    bound = functools.partial(
        strategy.keypoint_fn, **{option: fields[option] for option in options}
    )
    return strategy._replace(keypoint_fn=bound)


def cut_position(point_yx: jax.Array, shape: tuple[int, int], margin_cells: int) -> jax.Array:
    """Rounds a point to the grid (half up) and keeps it away from the border.

    Deviation: the paper does not say what happens at the border, where a patch would be empty.

    Args:
      point_yx: `[N, 2]` float, y and x in cells.
      shape: h and w of the map, each at least `2 * margin_cells`.
      margin_cells: min height and width of a patch, at least 1.

    Returns:
      `[N, 2]` int32, the row and the column of cells at which the lower and the right patches
      begin.
    """
    cut = jnp.floor(point_yx + 0.5).astype(jnp.int32)
    return jnp.clip(cut, margin_cells, jnp.array(shape, jnp.int32) - margin_cells)


def _position(index: jax.Array, width: int) -> jax.Array:
    """y and x of a cell's number in reading order, on a last axis of 2."""
    return jnp.stack([index // width, index % width], axis=-1).astype(jnp.float32)


def _mean_position(
    inputs: KeypointInputs, weight: jax.Array, position: jax.Array, offset_cells: float
) -> jax.Array:
    """The weighted mean of `[N, k, 2]` positions, or the peak where all weights are zero."""
    total = weight.sum(axis=-1, keepdims=True)
    mean = (weight[..., None] * position).sum(axis=1) / jnp.where(total > 0, total, 1.0)
    peak = channel_peak(inputs, offset_cells=offset_cells)
    return jnp.where(total > 0, mean + offset_cells, peak)
