"""Class activation maps of images at several scales, mirrored too, as PuzzleCAM makes them.

The maps of every scale are brought to the pixels of the image and summed; those of the classes that
are labelled in the image are kept, and each is divided by its own maximum.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from oass_jax.evaluation.predict import one_behind
from oass_jax.image import augment, geometry
from oass_jax.model.network import Network

Tree = Any
# Keeps a map without any activation at zero where it is divided by its maximum.
EPSILON = 1e-5


class ClassMaps(NamedTuple):
    """The maps of one image.

    Attributes:
      index: record of the split.
      classes: int64 `[K]`, the labelled classes, ascending.
      maps: float32 `[K, height, width]` in [0, 1), one for each of them.
    """

    index: int
    classes: np.ndarray
    maps: np.ndarray


def class_map_step(
    variables: Tree,
    batch: dict[str, jax.Array],
    *,
    network: Network,
    scales: tuple[float, ...],
    flip: bool,
    num_slots: int,
    out_px: int,
) -> dict[str, jax.Array]:
    """Class maps of a batch of images, in the pixels wanted of each.

    Args:
      variables: of the network.
      batch: as `data.pipeline` makes it, of which `image`, `size`, `label`, `mask` and `index` are
        read, and `map_size`, int `[B, 2]`, the height and width the maps are to have.
      network: encoder f and classifier g.
      scales: of the image, at least one.
      flip: whether each scale also sees the mirrored image.
      num_slots: K, no fewer than any image has labels and at most C.
      out_px: side of the square the maps are written to, no less than any `map_size`.

    Returns:
      `maps`: float32 `[B, K, out_px, out_px]` in [0, 1), zero outside `map_size` and in unused
      slots; `classes`: int32 `[B, K]`, the class in each slot, ascending, -1 in unused ones; and
      the batch's `map_size`, `mask` and `index`.
    """
    size = jnp.maximum(batch["size"], 1)  # what fills up the last batch has no pixels
    present = batch["label"] == 1
    order = jnp.argsort(~present, axis=-1, stable=True)[:, :num_slots]
    used = jnp.take_along_axis(present, order, axis=-1)

    stride = network.encoder.stride
    total = jnp.zeros((len(size), out_px, out_px, num_slots), jnp.float32)
    for scale in scales:
        for mirrored in (False, True) if flip else (False,):
            image = augment.rescale_images(
                batch["image"], size, scale=scale, flip=mirrored, multiple=2 * stride
            )
            cam = network.apply(variables, image, train=False)["cam"]
            # Resizing is linear and done a class at a time: only the classes kept are resized.
            cam = jnp.take_along_axis(jax.nn.relu(cam), order[:, None, None, :], axis=-1)
            total += to_pixels(
                cam,
                augment.rescaled_size(size, scale),
                batch["map_size"],
                stride=stride,
                mirrored=mirrored,
                out_px=out_px,
            )
    window = jnp.stack([jnp.zeros_like(batch["map_size"]), batch["map_size"]], axis=-1)
    inside = geometry.pixels_inside(window, (out_px, out_px))[..., None]
    maps = jnp.where(inside & used[:, None, None, :], total, 0.0)
    maps /= maps.max(axis=(1, 2), keepdims=True) + EPSILON
    return {"maps": jnp.moveaxis(maps, -1, 1), "classes": jnp.where(used, order, -1)} | {
        name: batch[name] for name in ("map_size", "mask", "index")
    }


def to_pixels(
    cam: jax.Array,
    image_size: jax.Array,
    map_size: jax.Array,
    *,
    stride: int,
    mirrored: bool,
    out_px: int,
) -> jax.Array:
    """Brings maps from the cells of the network's input to the pixels of another size, linearly.

    Pixel y of the map lies at cell (y + 0.5) * image_size / map_size / stride - 0.5. Every cell
    with a pixel of the image counts, as if the image came without padding; no other cell does.
    Cells are placed by their middles, as PuzzleCAM's are, although a cell of 16 pixels sees the
    image around its first one, see `method.puzzle`: maps lie 7.5 pixels of the network's input too
    far down and right.

    Args:
      cam: `[B, h, w, N]`, maps of images at the top left of their canvas.
      image_size: `[B, 2]` whole numbers, height and width of the images on it in pixels.
      map_size: `[B, 2]` int, height and width wanted.
      stride: pixels of the canvas a cell.
      mirrored: the image is mirrored there (about itself, not about the canvas), the result not.
      out_px: side of the square to write to.

    Returns:
      float32 `[B, out_px, out_px, N]`; what is outside `map_size` means nothing.
    """
    num_cells = jnp.ceil(image_size / stride)
    # These cells may reach past the image's end, by as much as their window does past the map's.
    length = num_cells * stride * map_size / image_size
    zero = jnp.zeros_like(num_cells)
    source = jnp.stack([zero, num_cells], axis=-1)
    target = jnp.stack([zero, length], axis=-1)
    if mirrored:
        source = source.at[:, 1].set(jnp.stack([num_cells, -num_cells], axis=-1)[:, 1])
        target = target.at[:, 1, 0].set((map_size - length)[:, 1])
    canvas = (out_px, out_px)
    return geometry.resample(cam, source, target, canvas, kernel="linear", antialias=False)


def image_maps(
    step_fn: Callable[[dict[str, jax.Array]], dict[str, jax.Array]],
    batches: Iterable[dict[str, jax.Array]],
) -> Iterator[ClassMaps]:
    """Runs every batch and hands out the maps of its images, one image after another.

    Args:
      step_fn: batch -> what `class_map_step` returns.
      batches: in a run of several processes their global arrays.

    Yields:
      The maps of each image, cut to its size, in the order of the batches.
    """
    for output in one_behind(step_fn, batches):
        yield from _images(output)


def _images(rows: dict[str, np.ndarray]) -> Iterator[ClassMaps]:
    for row in np.flatnonzero(rows["mask"]):
        height, width = rows["map_size"][row]
        classes = rows["classes"][row]
        classes = classes[classes >= 0].astype(np.int64)
        maps = rows["maps"][row, : len(classes), :height, :width]
        yield ClassMaps(int(rows["index"][row]), classes, maps)
