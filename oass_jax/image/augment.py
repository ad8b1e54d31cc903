"""The input transformation of Sec. 3.1, as PuzzleCAM does it, on the device and for a whole batch.

Training draws a long side, flips some of the images, and crops or pads at a random place.
Evaluation keeps the size, or scales it by one factor, and places the image at the top left. Both
normalise with the statistics of ImageNet and leave the padding at zero.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from oass_jax.image import geometry

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Placement(NamedTuple):
    """Where a stored image comes to lie on the canvas of the network.

    Attributes:
      size: `[B, 2]` float32, height and width of the stored image in pixels.
      window: `[B, 2, 2]` float32, for y and for x the start and length in pixels on the canvas.
        The start is negative and the length larger than the canvas where the image is cropped.
      flip: `[B]` bool, left and right exchanged.
    """

    size: jax.Array
    window: jax.Array
    flip: jax.Array


def random_placement(
    rng: jax.Array,
    size: jax.Array,
    *,
    out_px: int,
    min_px: int,
    max_px: int,
    flip_probability: float,
) -> Placement:
    """Draws size, flip and position of each image.

    The long side is a whole number from [min_px, max_px], drawn uniformly, the other side follows
    to the nearest pixel. Per axis, an image longer than the canvas is cropped at a uniform offset
    and a shorter one placed at a uniform offset.

    Args:
      rng: `[B]` keys, one for each image, so that an image's draw depends on nothing else.
      size: `[B, 2]` int, height and width of the stored images in pixels.
      out_px: side of the square canvas.
      min_px: smallest long side.
      max_px: largest long side, inclusive.
      flip_probability: of exchanging left and right.
    """

    def draw(rng: jax.Array, size: jax.Array) -> tuple[jax.Array, jax.Array]:
        rng_size, rng_flip, rng_place = jax.random.split(rng, 3)
        long_side = jax.random.randint(rng_size, (), min_px, max_px + 1)
        # A side of a very long image must not vanish.
        length = jnp.maximum(jnp.round(size * (long_side / size.max())), 1.0)
        room = out_px - length
        offset = jax.random.randint(rng_place, (2,), 0, jnp.abs(room).astype(jnp.int32) + 1)
        start = jnp.where(room >= 0, offset, -offset).astype(jnp.float32)
        return jnp.stack([start, length], axis=-1), jax.random.bernoulli(rng_flip, flip_probability)

    window, flip = jax.vmap(draw)(rng, size)
    return Placement(size.astype(jnp.float32), window, flip)


def place_images(
    images: jax.Array,
    placement: Placement,
    out_px: int,
    *,
    precision: jax.lax.PrecisionLike = geometry.HIGHEST,
) -> jax.Array:
    """Resizes (antialiased bicubic), flips, crops or pads, and normalises.

    Args:
      images: `[B, H, W, 3]` uint8, each at the top left of its canvas.
      placement: where they go.
      out_px: side of the square canvas of the network.
      precision: of the products, see `geometry.float32_precision`.

    Returns:
      `[B, out_px, out_px, 3]` float32, normalised; the padding is 0.
    """
    zero = jnp.zeros_like(placement.size)
    source = jnp.stack([zero, placement.size], axis=-1)
    mirrored = jnp.stack([placement.size[:, 1], -placement.size[:, 1]], axis=-1)
    source = source.at[:, 1].set(jnp.where(placement.flip[:, None], mirrored, source[:, 1]))
    canvas = (out_px, out_px)
    pixels = geometry.resample(
        images,
        source,
        placement.window,
        canvas,
        kernel="cubic",
        antialias=True,
        precision=precision,
    )
    pixels = jnp.clip(pixels, 0.0, 255.0) / 255.0  # bicubic overshoots, 8-bit images cannot
    inside = geometry.pixels_inside(placement.window, canvas)
    return jnp.where(inside[..., None], normalise(pixels), 0.0)


def keep_images(images: jax.Array, size: jax.Array) -> jax.Array:
    """Normalises images and leaves them where they are (evaluation).

    Args:
      images: `[B, H, W, 3]` uint8, each at the top left of its canvas.
      size: `[B, 2]` int, height and width of the images in pixels.

    Returns:
      `[B, H, W, 3]` float32, normalised; the padding is 0.
    """
    window = jnp.stack([jnp.zeros_like(size), size], axis=-1)
    inside = geometry.pixels_inside(window, images.shape[1:3])
    return jnp.where(inside[..., None], normalise(images / 255.0), 0.0)


def rescale_images(
    images: jax.Array, size: jax.Array, *, scale: float, flip: bool, multiple: int
) -> jax.Array:
    """Resizes images by one factor, at the top left of a canvas that grows along (evaluation).

    Args:
      images: `[B, H, W, 3]` uint8, each at the top left of its canvas.
      size: `[B, 2]` int, height and width of the images in pixels.
      scale: of both sides; 1 without a flip leaves the pixels as they are.
      flip: exchange left and right of each image, which stays at the top left.
      multiple: of which the new canvas is one, in pixels.

    Returns:
      `[B, H', W', 3]` float32, normalised, zero in the padding; H' and W' are `scale` times H and W
      to the next `multiple`. The images in it are `rescaled_size` large.
    """
    if scale == 1 and not flip:
        return keep_images(images, size)
    new_size = rescaled_size(size, scale)
    window = jnp.stack([jnp.zeros_like(new_size), new_size], axis=-1)
    placement = Placement(size.astype(jnp.float32), window, jnp.full(size.shape[0], flip))
    out_px = multiple * math.ceil(scale * images.shape[1] / multiple)
    return place_images(images, placement, out_px)


def rescaled_size(size: jax.Array, scale: float) -> jax.Array:
    """Height and width of an image resized by `scale`: float32 whole pixels, at least 1."""
    return jnp.maximum(jnp.round(size * scale), 1.0)


def normalise(pixels: jax.Array) -> jax.Array:
    """Centres and scales RGB in [0, 1] with ImageNet's statistics.

    Args:
      pixels: `[..., 3]` float.
    """
    return (pixels - jnp.array(IMAGENET_MEAN)) / jnp.array(IMAGENET_STD)


def place_boxes(
    boxes: jax.Array, box_label: jax.Array, placement: Placement, out_px: int
) -> tuple[jax.Array, jax.Array]:
    """Takes boxes along with their images; one outside of the canvas is dropped.

    Args:
      boxes: `[B, N, 4]` float, ymin, xmin, ymax, xmax in [0, 1] of the stored image.
      box_label: `[B, N]` int, class of each box, -1 for an unused slot.
      placement: where the images go.
      out_px: side of the square canvas.

    Returns:
      Boxes in [0, 1] of the canvas, cut at its border, and their labels, -1 where dropped.
    """
    ymin, xmin, ymax, xmax = jnp.moveaxis(boxes, -1, 0)
    flip = placement.flip[:, None]
    xmin, xmax = jnp.where(flip, 1.0 - xmax, xmin), jnp.where(flip, 1.0 - xmin, xmax)
    low = jnp.stack([ymin, xmin], axis=-1)
    high = jnp.stack([ymax, xmax], axis=-1)
    start, length = placement.window[:, None, :, 0], placement.window[:, None, :, 1]
    low, high = (jnp.clip((start + x * length) / out_px, 0.0, 1.0) for x in (low, high))
    kept = (box_label >= 0) & (high > low).all(axis=-1)
    placed = jnp.concatenate([low, high], axis=-1)
    return jnp.where(kept[..., None], placed, 0.0), jnp.where(kept, box_label, -1)
