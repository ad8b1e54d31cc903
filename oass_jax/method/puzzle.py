"""Cut an image at its keypoint into four patches, and tile the patches' maps (Sec. 2.1).

The patches differ in size and are resized to one; their class maps are resized back to the cells
their patch covers, so the tiled map lies over the map of the full image cell by cell.
"""

import jax
import jax.numpy as jnp

from oass_jax.image import geometry


def _halves(cut: jax.Array, size: int) -> jax.Array:
    """Start and length of the two parts of an axis, `[B, 2, 2]`, cut at `cut` `[B]`."""
    start = jnp.stack([jnp.zeros_like(cut), cut], axis=-1)
    length = jnp.stack([cut, size - cut], axis=-1)
    return jnp.stack([start, length], axis=-1)


def _whole(size: int) -> jax.Array:
    return jnp.array([0, size])


def cut(images: jax.Array, cut_yx_px: jax.Array, patch_shape: tuple[int, int]) -> jax.Array:
    """Cuts each image into four patches and resizes them to one shape (bilinear, antialiased).

    Equal to slicing each patch out and resizing it with `jax.image.resize`.

    Args:
      images: `[B, H, W, 3]`.
      cut_yx_px: `[B, 2]` int, row and column in pixels at which the lower and right patches begin;
        inside (0, H) and (0, W).
      patch_shape: height and width of every resized patch, pixels.

    Returns:
      `[B, 2, 2, *patch_shape, 3]` float32; the first 2 is upper and lower, the second left and
      right.
    """
    weights = [
        geometry.axis_weights(
            _halves(cut_yx_px[:, axis], size),
            _whole(out),
            size,
            out,
            kernel="linear",
            antialias=True,
        )
        for axis, size, out in zip((0, 1), images.shape[1:3], patch_shape, strict=True)
    ]
    return geometry.weighted_sum("bvph,bhwn,buqw->bvupqn", weights[0], images, weights[1])


def tile(maps: jax.Array, cut_yx_cell: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Resizes the maps of the four patches to the cells they cover and puts them together.

    Args:
      maps: `[B, 2, 2, p, q, C]`, ordered as `cut` returns the patches.
      cut_yx_cell: `[B, 2]` int, where the image was cut, in cells.
      shape: h and w of the tiled map.

    Returns:
      `A_re`, `[B, *shape, C]` float32.
    """
    weights = [
        geometry.axis_weights(
            _whole(size),
            _halves(cut_yx_cell[:, axis], out),
            size,
            out,
            kernel="linear",
            antialias=True,
        )
        for axis, size, out in zip((0, 1), maps.shape[3:5], shape, strict=True)
    ]
    # A cell has weight from the one patch that covers it, so the sum over patches is the tiling.
    return geometry.weighted_sum("bvhp,bvupqc,buwq->bhwc", weights[0], maps, weights[1])
