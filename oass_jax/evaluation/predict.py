"""One pass over a split: scores and labels of every image, and the metrics they give."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from oass_jax.image import augment
from oass_jax.method import mcar
from oass_jax.model.network import Network

Tree = Any


class Predictions(NamedTuple):
    """Scores of a split and its labels; one image an entry, in the split's order.

    Attributes:
      scores: name of the weights ('student', 'ema') -> kind ('base', 'csi', 'graph', 'regions') ->
        `[N, C]` float32 logits.
      label: `[N, C]` int8, 1 present, 0 absent, -1 ignored.
      index: `[N]` int, record of the split.
    """

    scores: dict[str, dict[str, np.ndarray]]
    label: np.ndarray
    index: np.ndarray


def predict_step(
    weights: dict[str, Tree],
    batch: dict[str, jax.Array],
    *,
    network: Network,
    regions: mcar.Regions | None,
    scales: Sequence[float],
    flip: bool,
) -> dict[str, Any]:
    """Logits of a batch of images, at the top left of the canvas.

    Args:
      weights: name -> variables of the network.
      batch: as `data.pipeline` makes it: `image` `[B, H, W, 3]` uint8, `size`, and the rest.
      network: encoder f and classifiers.
      regions: of MCAR's second stream, which adds logits of the kind 'regions'; None for none.
      scales: sizes of an image, relative to the stored one, whose logits are averaged.
      flip: average with the logits of the mirrored images, too.

    Returns:
      `scores`: name -> kind -> `[B, C]` float32; and the batch's label, mask and index.
    """
    rescale = functools.partial(
        augment.rescale_images, batch["image"], batch["size"], multiple=2 * network.encoder.stride
    )
    views = [
        rescale(scale=scale, flip=mirrored)
        for scale in scales
        for mirrored in ((False, True) if flip else (False,))
    ]
    scores = {}
    for name, variables in weights.items():
        logits = [_logits(variables, view, network, regions) for view in views]
        scores[name] = jax.tree.map(lambda *each: sum(each) / len(each), *logits)
    return {"scores": scores} | {name: batch[name] for name in ("label", "mask", "index")}


def _logits(
    variables: Tree, image: jax.Array, network: Network, regions: mcar.Regions | None
) -> dict[str, jax.Array]:
    output = network.apply(variables, image, train=False)
    if regions is None:
        return output["logits"]
    crops = mcar.crop(image, output["cam"], output["logits"]["base"], regions)
    local = network.apply(variables, crops, train=False)["logits"]["base"]
    return output["logits"] | {"regions": mcar.strongest(local, image.shape[0])}


def choose(scores: dict[str, np.ndarray], kind: str) -> np.ndarray:
    """The prediction among the kinds of logits.

    Args:
      scores: kind -> `[N, C]` logits.
      kind: one of them, or 'mean' or 'max' of them all.
    """
    combine = {"mean": np.mean, "max": np.max}.get(kind)
    return combine(list(scores.values()), axis=0) if combine else scores[kind]


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
