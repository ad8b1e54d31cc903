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


def cut(images: jax.Array, cut_yx_px: jax.Array, *, resize: bool) -> jax.Array:
    """Cuts each image into four patches (bilinear, antialiased, where they are resized).

    Args:
      images: `[N, H, W, 3]`.
      cut_yx_px: `[N, 2]` int, row and column in pixels at which the lower and right patches begin;
        inside (0, H) and (0, W).
      resize: every patch to H / 2 and W / 2, equal to slicing it out and resizing it with
        `jax.image.resize`. Else patches keep size and place on an image that is zero elsewhere,
        which costs the encoder four times as much.

    Returns:
      `[4 * N, H / 2, W / 2, 3]`, or `[4 * N, H, W, 3]`, float32; the upper left, upper right, lower
      left and lower right patch of an image follow each other.
    """
    weights = []
    for axis, size in zip((0, 1), images.shape[1:3], strict=True):
        source = _halves(cut_yx_px[:, axis], size)
        out = size // 2 if resize else size
        target = _whole(out) if resize else source
        weights.append(
            geometry.axis_weights(source, target, size, out, kernel="linear", antialias=True)
        )
    patches = geometry.weighted_sum("bvph,bhwn,buqw->bvupqn", weights[0], images, weights[1])
    return patches.reshape(-1, *patches.shape[3:])


def tile(maps: jax.Array, cut_yx_cell: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Resizes the maps of the four patches to the cells they cover and puts them together.

    Args:
      maps: `[4 * N, p, q, K]`, ordered as `cut` returns the patches. Where p and q are h and w the
        patches were not resized, and each map is cut out where its patch lies.
      cut_yx_cell: `[N, 2]` int, where the image was cut, in cells.
      shape: h and w of the tiled map.

    Returns:
      `A_re`, `[N, *shape, K]` float32.
    """
    maps = maps.reshape(-1, 2, 2, *maps.shape[1:])
    weights = []
    for axis, size, out in zip((0, 1), maps.shape[3:5], shape, strict=True):
        target = _halves(cut_yx_cell[:, axis], out)
        source = target if size == out else _whole(size)
        weights.append(
            geometry.axis_weights(source, target, size, out, kernel="linear", antialias=True)
        )
    # A cell has weight from the one patch that covers it, so the sum over patches is the tiling.
    return geometry.weighted_sum("bvhp,bvupqc,buwq->bhwc", weights[0], maps, weights[1])
