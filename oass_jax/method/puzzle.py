"""Cut an image at its keypoint into four patches, and tile the patches' maps (Sec. 2.1).

The patches differ in size and are resized to one; their class maps are resized back to the cells
their patch covers, so the tiled map lies over the map of the full image.

Maps are resized as images are, as if a cell saw the image around its middle. The encoder pads
symmetrically, as torch's does, so that a cell of 16 px sees it around its first pixel, 7.5 px up
and left of that. Where a patch of length L was resized to P, its map therefore lies
7.5 (L / P - 1) px off that of the full image: not at all for a cut in the centre, at most 5.6 px or
0.35 cells.
"""

import functools

import jax
import jax.numpy as jnp

from oass_jax.image import geometry


def _halves(cut: jax.Array, size: int) -> jax.Array:
    """Start and length of the two parts of an axis, `[..., 2, 2]`, cut at `cut` `[...]`."""
    start = jnp.stack([jnp.zeros_like(cut), cut], axis=-1)
    length = jnp.stack([cut, size - cut], axis=-1)
    return jnp.stack([start, length], axis=-1)


def cut(
    images: jax.Array,
    cut_yx_px: jax.Array,
    *,
    resize: bool,
    precision: jax.lax.PrecisionLike = geometry.HIGHEST,
) -> jax.Array:
    """Cuts each image into four patches (bilinear, antialiased, where they are resized).

    Args:
      images: `[N, H, W, 3]`.
      cut_yx_px: `[N, 2]` int, row and column in pixels at which the lower and right patches begin;
        inside (0, H) and (0, W).
      resize: every patch to H / 2 and W / 2, equal to slicing it out and resizing it with
        `jax.image.resize`. Else patches keep size and place on an image that is zero elsewhere,
        which costs the encoder four times as much.
      precision: of the products, see `geometry.float32_precision`.

    Returns:
      `[4 * N, H / 2, W / 2, 3]`, or `[4 * N, H, W, 3]`, float32; the upper left, upper right, lower
      left and lower right patch of an image follow each other.
    """

    def halve(image: jax.Array, cut: jax.Array, axis: int) -> jax.Array:
        size = image.shape[axis]
        out = size // 2 if resize else size
        source = _halves(cut, size)
        target = jnp.array([[0, out]] * 2) if resize else source
        part_fn = functools.partial(
            geometry.resample_axis,
            out_size=out,
            axis=axis,
            kernel="linear",
            antialias=True,
            precision=precision,
        )
        return jax.vmap(part_fn, (None, 0, 0))(image, source, target)

    def quarter(image: jax.Array, cut_yx: jax.Array) -> jax.Array:
        # Left and right share their rows, which are resampled once.
        upper_lower = halve(image, cut_yx[0], 0)
        return jax.vmap(halve, (0, None, None))(upper_lower, cut_yx[1], 1)

    patches = jax.vmap(quarter)(images, cut_yx_px)
    return patches.reshape(-1, *patches.shape[3:])


def tile(
    maps: jax.Array,
    cut_yx_cell: jax.Array,
    shape: tuple[int, int],
    *,
    precision: jax.lax.PrecisionLike = geometry.HIGHEST,
) -> jax.Array:
    """Resizes the maps of the four patches to the cells they cover and puts them together.

    Args:
      maps: `[4 * N, p, q, K]`, ordered as `cut` returns the patches. Where p and q are h and w the
        patches were not resized, and each map is cut out where its patch lies.
      cut_yx_cell: `[N, 2]` int, where the image was cut, in cells.
      shape: h and w of the tiled map.
      precision: as in `cut`.

    Returns:
      `A_re`, `[N, *shape, K]` float32.
    """
    size = maps.shape[1:3]
    rows, columns = (_halves(cut_yx_cell[:, axis], shape[axis]) for axis in (0, 1))
    # [N, 2, 2, 2, 2]: of the patch in row v and column u, for y and x, start and length.
    pair = jnp.broadcast_arrays(rows[:, :, None], columns[:, None, :])
    target = jnp.stack(pair, axis=3).reshape(-1, 2, 2)
    whole = jnp.stack([jnp.zeros(2), jnp.array(size)], axis=-1)
    source = target if size == shape else jnp.broadcast_to(whole, target.shape)
    placed = geometry.resample(
        maps, source, target, shape, kernel="linear", antialias=True, precision=precision
    )
    # Each is exactly zero outside its place.
    return placed.reshape(-1, 4, *placed.shape[1:]).sum(axis=1)
