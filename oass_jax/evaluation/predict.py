"""One pass over a split: scores and labels of every image, and the metrics they give."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from oass_jax.image import augment
from oass_jax.method import mcar
from oass_jax.model.network import Network

Tree = Any


class Predictions(NamedTuple):
    """Scores of a split and its labels; one image an entry, in the split's order.

    Attributes:
      scores: name of the weights ('student', 'ema') -> head ('base', 'csi', 'graph', 'regions') ->
        `[N, C]` float32 logits.
      label: `[N, C]` int8, 1 present, 0 absent, -1 ignored.
      index: `[N]` int, record of the split.
    """

    scores: dict[str, dict[str, np.ndarray]]
    label: np.ndarray
    index: np.ndarray


def map_scale(scales: Sequence[float]) -> float:
    """The scale whose class maps are shown: of those that are averaged the one nearest 1."""
    return min(scales, key=lambda scale: abs(scale - 1))


def predict_step(
    weights: dict[str, Tree],
    batch: dict[str, jax.Array],
    *,
    network: Network,
    regions: mcar.Regions | None,
    scales: Sequence[float],
    flip: bool,
    map_scale: float | None = None,
) -> dict[str, Any]:
    """Logits of a batch of images, at the top left of the canvas, and their class maps if wanted.

    Args:
      weights: name -> variables of the network.
      batch: as `data.pipeline` makes it, of which `image` `[B, H, W, 3]` uint8 and `size` are read.
      network: encoder f and classifiers.
      regions: of MCAR's second stream, which adds the head 'regions'; None for none.
      scales: sizes of an image, relative to the stored one, whose logits are averaged.
      flip: average with the logits of the mirrored images, too.
      map_scale: one of `scales`, whose raw class maps are returned, too; None for no maps.

    Returns:
      `scores`: name -> head -> `[B, C]` float32; where there is a `map_scale`, `maps`: name ->
      `[B, h, w, C]` float32, not mirrored; and what else the batch holds.
    """
    views = [
        (scale, mirrored) for scale in scales for mirrored in ((False, True) if flip else (False,))
    ]
    size = jnp.maximum(batch["size"], 1)  # of padding it is 0
    images = [
        augment.rescale_images(
            batch["image"],
            size,
            scale=scale,
            flip=mirrored,
            multiple=2 * network.encoder.stride,
        )
        for scale, mirrored in views
    ]
    scores, maps = {}, {}
    for name, variables in weights.items():
        found = [_predict(variables, image, network, regions) for image in images]
        logits = [logits for _, logits in found]
        scores[name] = jax.tree.map(lambda *each: sum(each) / len(each), *logits)
        if map_scale is not None:
            maps[name], _ = found[views.index((map_scale, False))]
    output = {"scores": scores} | ({} if map_scale is None else {"maps": maps})
    return output | {name: batch[name] for name in batch.keys() - {"image", "size"}}


def _predict(
    variables: Tree, image: jax.Array, network: Network, regions: mcar.Regions | None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Raw class maps and the logits of one view."""
    output = network.apply(variables, image, train=False)
    cam, logits = output["cam"], output["logits"]
    if regions is None:
        return cam, logits
    crops = mcar.crop(image, cam, logits["base"], regions)
    local = network.apply(variables, crops, train=False)["logits"]["base"]
    return cam, logits | {"regions": mcar.strongest(local, image.shape[0])}


def choose(scores: dict[str, np.ndarray], head: str) -> np.ndarray:
    """The prediction among the logits of several heads.

    Args:
      scores: head -> `[N, C]` logits.
      head: one of them, or 'mean' or 'max' of them all.
    """
    combine = {"mean": np.mean, "max": np.max}.get(head)
    return combine(list(scores.values()), axis=0) if combine else scores[head]


def predict(
    predict_fn: Callable[[dict[str, jax.Array]], dict[str, Any]],
    batches: Iterable[dict[str, jax.Array]],
) -> Predictions:
    """Runs every batch and gathers the entries that are images.

    Args:
      predict_fn: batch -> what `predict_step` returns.
      batches: at least one; in a run of several processes their global arrays.
    """
    outputs = one_behind(predict_fn, batches)
    entries = jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)
    entries = jax.tree.map(lambda array: array[entries["mask"]], entries)
    order = np.argsort(entries["index"], kind="stable")
    entries = jax.tree.map(lambda array: array[order], entries)
    return Predictions(entries["scores"], entries["label"], entries["index"])


def one_behind(step_fn: Callable[[Tree], Tree], batches: Iterable[Tree]) -> Iterator[Tree]:
    """Runs every batch and hands its output to the host while the device has the next one queued.

    Args:
      step_fn: batch -> tree of arrays.
      batches: any number.

    Yields:
      Each output as NumPy arrays.
    """
    waiting = None
    for batch in batches:
        started = step_fn(batch)
        if waiting is not None:
            yield jax.device_get(waiting)
        waiting = started
    if waiting is not None:
        yield jax.device_get(waiting)
