"""MCAR's second stream: the attentional regions of the strongest classes, seen again enlarged.

Gao and Zhou, Learning to Discover Multi-Class Attentional Regions for Multi-Label Image
Recognition, IEEE TIP 2021. The global stream is the plain network. The class maps of its N highest
scores each give one region; the same network sees the regions at full size, and a class's local
score is the highest over them. Both streams are trained, and inference takes the higher score.

Deviation: the paper leaves details of the search open; what is done here is in `locate`. The
classifier has no bias, as everywhere in this package.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from oass_jax.image import geometry

MIN_LENGTH = 0.125  # of the side; a region is never smaller
UNDECIDED = (0.125, 0.875)  # where nothing is below the threshold


class Regions(NamedTuple):
    """The settings of the second stream.

    Attributes:
      count: N, regions of an image.
      threshold: of the normalised attention along an axis, in (0, 1).
    """

    count: int
    threshold: float


def crop(
    images: jax.Array,
    cam: jax.Array,
    logits: jax.Array,
    regions: Regions,
    *,
    precision: jax.lax.PrecisionLike = geometry.HIGHEST,
) -> jax.Array:
    """The regions of each image, resized to the whole canvas (bilinear, antialiased).

    No gradient goes through where they lie.

    Args:
      images: `[B, H, W, 3]`.
      cam: `[B, h, w, C]` raw class maps.
      logits: `[B, C]`, by which the N classes are chosen.
      regions: N and the threshold.
      precision: of the products, see `geometry.float32_precision`.

    Returns:
      `[B * N, H, W, 3]` float32, those of an image together.
    """
    num_images, *shape, _ = images.shape
    count = min(regions.count, logits.shape[-1])
    # Not top_k, which would gather the batch of all devices.
    chosen = jnp.argsort(-logits, axis=-1)[:, :count]
    attention = jax.nn.sigmoid(jax.lax.stop_gradient(cam))
    attention = jnp.take_along_axis(attention, chosen[:, None, None, :], axis=-1)
    attention = jax.image.resize(attention, (num_images, *shape, count), "linear")
    # Over the other axis, one profile a region: [B, N, H] and [B, N, W].
    profiles = [jnp.moveaxis(attention.max(axis=axis), -1, 1) for axis in (2, 1)]
    window = jnp.stack([locate(profile, regions.threshold) for profile in profiles], axis=-2)
    whole = jnp.stack([jnp.zeros(2), jnp.array(shape, jnp.float32)], axis=-1)
    return geometry.resample(
        jnp.repeat(images, count, axis=0),
        window.reshape(-1, 2, 2),
        jnp.broadcast_to(whole, (num_images * count, 2, 2)),
        tuple(shape),
        kernel="linear",
        antialias=True,
        precision=precision,
    )


def locate(profile: jax.Array, threshold: float) -> jax.Array:
    """The stretch around the peak of a profile that stays above the threshold.

    The profile is brought to [0, 1] first. A stretch shorter than an eighth of the axis is widened
    to that; where the profile never falls to the threshold it is the middle three quarters.

    Deviation: in the authors' code a stretch begins at the last pixel below the threshold and ends
    before the last one above, so it lies one pixel earlier. A short one is widened to an eighth or
    a pixel less, and near a border not always; here always to an eighth, around its middle as far
    as the border permits.

    Args:
      profile: `[..., L]` float, attention along an axis of L pixels.
      threshold: in (0, 1).

    Returns:
      `[..., 2]` float32, start and length in pixels, whole numbers.
    """
    size = profile.shape[-1]
    low, high = (f(profile, axis=-1, keepdims=True) for f in (jnp.min, jnp.max))
    below = (profile - low) <= threshold * (high - low)
    below &= high > low
    position = jnp.arange(size)
    peak = profile.argmax(axis=-1)[..., None]
    start = jnp.where(below & (position < peak), position + 1, 0).max(axis=-1)
    end = jnp.where(below & (position > peak), position, size).min(axis=-1)

    min_length = -(-size // round(1 / MIN_LENGTH))
    length = jnp.maximum(end - start, min_length)
    start = jnp.clip(start - (length - (end - start)) // 2, 0, size - length)

    undecided = ~below.any(axis=-1)
    start = jnp.where(undecided, round(UNDECIDED[0] * size), start)
    length = jnp.where(undecided, round((UNDECIDED[1] - UNDECIDED[0]) * size), length)
    return jnp.stack([start, length], axis=-1).astype(jnp.float32)


def strongest(logits: jax.Array, num_images: int) -> jax.Array:
    """The highest logit of each class over the regions of an image.

    Args:
      logits: `[B * N, C]`, those of an image together.
      num_images: B.

    Returns:
      `[B, C]`.
    """
    return logits.reshape(num_images, -1, logits.shape[-1]).max(axis=1)
