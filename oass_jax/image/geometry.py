"""The one geometric primitive: resample a window of an image into a window of a canvas.

Random resizing, flipping, cropping, padding, cutting patches and bringing their maps back are all
this operation. It is separable: one matrix per axis says how much of every input pixel each
output pixel takes, and two matrix products do the work. Shapes are static, windows are traced, so
nothing recompiles when a window moves.

`jax.image.scale_and_translate` also builds such matrices, but reads across the edge of a window
into the rest of the image. Here weights are zero outside the window before they are normalised, so
the result is exactly that of cropping the window and resizing the crop.
"""

import jax
import jax.numpy as jnp


def _linear(x: jax.Array) -> jax.Array:
    return jnp.maximum(0.0, 1.0 - jnp.abs(x))


def _cubic(x: jax.Array) -> jax.Array:
    # Keys (1981) with a = -0.5, the bicubic of PIL and of jax.image.
    x = jnp.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return jnp.where(x < 1.0, near, jnp.where(x < 2.0, far, 0.0))


KERNELS = {"linear": _linear, "cubic": _cubic}


def axis_weights(
    source: jax.Array,
    target: jax.Array,
    in_size: int,
    out_size: int,
    *,
    kernel: str,
    antialias: bool,
) -> jax.Array:
    """How much of each input pixel every output pixel takes, along one axis.

    Args:
      source: `[..., 2]` float, start and length in pixels of the window that is read. A negative
        length reads backwards from `start`, which is a flip. Edges are whole pixels.
      target: `[..., 2]` float, start and length (positive) in pixels of the window that is written.
        It may reach over the canvas, which crops.
      in_size: pixels of the input along this axis.
      out_size: pixels of the canvas along this axis.
      kernel: a key of `KERNELS`.
      antialias: widen the kernel when shrinking, as PIL does; otherwise sample at points.

    Returns:
      `[..., out_size, in_size]` float32. Rows inside the target window sum to 1, others are 0.
    """
    start, length = (source[..., i, None, None].astype(jnp.float32) for i in (0, 1))
    target_start, target_length = (target[..., i, None, None].astype(jnp.float32) for i in (0, 1))
    x_in = jnp.arange(in_size, dtype=jnp.float32) + 0.5
    x_out = jnp.arange(out_size, dtype=jnp.float32)[:, None] + 0.5

    scale = length / target_length  # input pixels per output pixel
    support = jnp.maximum(jnp.abs(scale), 1.0) if antialias else 1.0
    sample = start + (x_out - target_start) * scale
    weights = KERNELS[kernel]((x_in - sample) / support)
    weights *= (jnp.minimum(start, start + length) < x_in) & (
        x_in < jnp.maximum(start, start + length)
    )
    total = weights.sum(axis=-1, keepdims=True)
    written = (target_start <= x_out) & (x_out < target_start + target_length)
    return jnp.where(written, weights / jnp.where(written, total, 1.0), 0.0)


def resample(
    images: jax.Array,
    source: jax.Array,
    target: jax.Array,
    out_shape: tuple[int, int],
    *,
    kernel: str,
    antialias: bool,
) -> jax.Array:
    """Resamples a window of each image into a window of a canvas that is zero elsewhere.

    Args:
      images: `[B, H, W, N]`, any real dtype.
      source: `[B, 2, 2]`, for y and for x the start and length in pixels of the window to read.
      target: `[B, 2, 2]`, the same of the window to write.
      out_shape: height and width of the canvas.
      kernel: a key of `KERNELS`.
      antialias: as in `axis_weights`.

    Returns:
      `[B, *out_shape, N]` float32.
    """
    _, height, width, _ = images.shape
    options = {"kernel": kernel, "antialias": antialias}
    weights_y = axis_weights(source[:, 0], target[:, 0], height, out_shape[0], **options)
    weights_x = axis_weights(source[:, 1], target[:, 1], width, out_shape[1], **options)
    return weighted_sum("bph,bhwn,bqw->bpqn", weights_y, images, weights_x)


def weighted_sum(
    equation: str, weights_y: jax.Array, images: jax.Array, weights_x: jax.Array
) -> jax.Array:
    """Applies the weights of both axes in full float32.

    The precision is asked for because the default of accelerators (TF32, bfloat16) would round
    pixels to 8 or 10 bits and move the edges of maps that must agree.

    Args:
      equation: einsum over `weights_y, images, weights_x`.
      weights_y: from `axis_weights`.
      images: pixels or maps, any real dtype.
      weights_x: from `axis_weights`.

    Returns:
      The resampled images, float32.
    """
    return jnp.einsum(
        equation,
        weights_y,
        images.astype(jnp.float32),
        weights_x,
        precision=jax.lax.Precision.HIGHEST,
    )


def pixels_inside(window: jax.Array, shape: tuple[int, int], stride: int = 1) -> jax.Array:
    """Which cells of a grid have their centre inside a window.

    Args:
      window: `[B, 2, 2]`, for y and for x the start and length in pixels.
      shape: rows and columns of the grid.
      stride: pixels a cell.

    Returns:
      `[B, *shape]` bool.
    """

    def inside(axis: int) -> jax.Array:
        centre = (jnp.arange(shape[axis]) + 0.5) * stride
        start, length = window[:, axis, :1], window[:, axis, 1:]
        return (start <= centre) & (centre < start + length)

    return inside(0)[:, :, None] & inside(1)[:, None, :]
