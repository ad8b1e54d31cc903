"""The one geometric primitive: resample a window of an image into a window of a canvas.

Random resizing, flipping, cropping, padding, cutting patches and bringing their maps back are all
this operation. Shapes are static, windows are traced, so nothing recompiles when a window moves.

`jax.image.scale_and_translate`, S, does it, but reads across the edge of a window into the rest of
the image. So the window's indicator m is resampled too: S(image * m) / S(m) is exactly what comes
of cropping the window and resizing the crop.
"""

import functools

import jax
import jax.numpy as jnp

HIGHEST = jax.lax.Precision.HIGHEST
AMPERE = 8  # the first generation of NVIDIA's GPUs that multiplies TF32 and bfloat16
_MARGIN = 2  # pixels beyond either end of an axis


def float32_precision(device: jax.Device) -> jax.lax.PrecisionLike:
    """The cheapest products that round no more than float32 does.

    The default of accelerators (TF32, bfloat16) would round pixels to 8 or 10 bits and move the
    edges of maps that must agree. NVIDIA's GPUs from Ampere on add three products of TF32 up to
    float32 in a fraction of the time of its own products; elsewhere there is no such product.

    Args:
      device: that computes.
    """
    if (nvidia_generation(device) or 0) >= AMPERE:
        return jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3
    return HIGHEST


def nvidia_generation(device: jax.Device) -> int | None:
    """First part of the compute capability of an NVIDIA GPU; None for any other device."""
    # Of other makers it is no number, of other devices there is none.
    generation, _, _ = str(getattr(device, "compute_capability", "")).partition(".")
    return int(generation) if generation.isdecimal() else None


def resample(
    images: jax.Array,
    source: jax.Array,
    target: jax.Array,
    out_shape: tuple[int, int],
    *,
    kernel: str,
    antialias: bool,
    precision: jax.lax.PrecisionLike = HIGHEST,
) -> jax.Array:
    """Resamples a window of each image into a window of a canvas that is zero elsewhere.

    Args:
      images: `[B, H, W, N]`, any real dtype.
      source: `[B, 2, 2]`, for y and for x the start and length in pixels of the window to read.
        A negative length reads backwards from the start, which is a flip. Edges are whole pixels.
      target: `[B, 2, 2]`, the same of the window to write; lengths are positive. It may reach over
        the canvas, which crops.
      out_shape: height and width of the canvas.
      kernel: 'linear' or 'cubic' (Keys, a = -0.5: the bicubic of PIL).
      antialias: widen the kernel when shrinking, as PIL does; otherwise sample at points.
      precision: of the products, see `float32_precision`.

    Returns:
      `[B, *out_shape, N]` float32.
    """
    options = {"kernel": kernel, "antialias": antialias, "precision": precision}

    def one(image: jax.Array, source: jax.Array, target: jax.Array) -> jax.Array:
        for axis, out_size in enumerate(out_shape):
            start, length = source[axis]
            image = jnp.where(length < 0, jnp.flip(image, axis), image)
            start = jnp.where(length < 0, image.shape[axis] - start, start)
            window = jnp.stack([start, jnp.abs(length)])
            image = resample_axis(image, window, target[axis], out_size, axis=axis, **options)
        return image

    return jax.vmap(one)(images, source, target)


def resample_axis(
    image: jax.Array,
    source: jax.Array,
    target: jax.Array,
    out_size: int,
    *,
    axis: int,
    kernel: str,
    antialias: bool,
    precision: jax.lax.PrecisionLike = HIGHEST,
) -> jax.Array:
    """Resamples one axis of one image; two axes are resampled one after the other.

    Args:
      image: `[H, W, N]`, any real dtype.
      source: `[2]`, start and length (positive) in pixels of the window to read.
      target: `[2]`, the same of the window to write.
      out_size: pixels of the canvas along this axis.
      axis: 0 for y, 1 for x.
      kernel: as in `resample`.
      antialias: as in `resample`.
      precision: as in `resample`.

    Returns:
      `image`, float32, with `out_size` pixels along the axis.
    """
    source, target = source.astype(jnp.float32), target.astype(jnp.float32)
    scale = target[1] / source[1]
    resize_fn = functools.partial(
        jax.image.scale_and_translate,
        scale=scale[None],
        translation=(target[0] - (source[0] + _MARGIN) * scale)[None],
        method=kernel,
        antialias=antialias,
    )
    along = [1, 1, 1]
    along[axis] = -1
    out_shape = [*image.shape]
    out_shape[axis] = out_size

    inside = centres_inside(source, image.shape[axis]).astype(jnp.float32)
    # S is zero where a centre is beyond the image, be it by rounding alone.
    margin = [(0, 0)] * 3
    margin[axis] = (_MARGIN, _MARGIN)
    masked = jnp.pad(image * inside.reshape(along), margin)
    # A product with a vector is a plain sum, which TF32 would only split in three.
    share = resize_fn(
        jnp.pad(inside, _MARGIN), shape=[out_size], spatial_dims=[0], precision=HIGHEST
    )
    summed = resize_fn(masked, shape=out_shape, spatial_dims=[axis], precision=precision)
    # About half of the kernel at least lies inside where its centre does.
    written = centres_inside(target, out_size)
    resized = summed / jnp.where(written, share, 1.0).reshape(along)
    return jnp.where(written.reshape(along), resized, 0.0)


def pixels_inside(window: jax.Array, shape: tuple[int, int], stride: int = 1) -> jax.Array:
    """Which cells of a grid have their centre inside a window.

    Args:
      window: `[B, 2, 2]`, for y and for x the start and length in pixels.
      shape: rows and columns of the grid.
      stride: pixels a cell.

    Returns:
      `[B, *shape]` bool.
    """
    rows, columns = (centres_inside(window[:, axis], shape[axis], stride) for axis in (0, 1))
    return rows[:, :, None] & columns[:, None, :]


def centres_inside(window: jax.Array, size: int, stride: int = 1) -> jax.Array:
    """Which cells of an axis have their centre inside a window.

    Args:
      window: `[..., 2]`, start and length in pixels.
      size: cells of the axis.
      stride: pixels a cell.

    Returns:
      `[..., size]` bool; of windows that meet, one has a centre that lies where they do.
    """
    centre = (jnp.arange(size) + 0.5) * stride
    start, length = window[..., :1], window[..., 1:]
    return (start <= centre) & (centre < start + length)
