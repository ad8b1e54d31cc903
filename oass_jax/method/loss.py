"""The three losses of Sec. 2.1 and the ramp of their weights.

L = L_cls + alpha_p * L_p-cl + alpha_re * L_re

Channel-wise, the last two are those of every labelled class c, each with maps tiled for it alone:

L = L_cls + sum_c 1(y_c = 1) (alpha_p * L_p-cl^c + alpha_re * L_re^c) / |{c: y_c = 1}|

Deviation: the printed sum counts the indicators, not the labels, in its denominator.
"""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(
    logits: jax.Array, label: jax.Array, pos_weight: jax.Array | None = None
) -> jax.Array:
    """Binary cross-entropy of each entry, 0 where the label is ignored.

    Args:
      logits: float.
      label: of the same shape, 1 present, 0 absent, -1 ignored.
      pos_weight: what the entries that are present count, of a shape that broadcasts; None for 1.

    Returns:
      float32, of the same shape.
    """
    loss = optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), label)
    if pos_weight is not None:
        loss *= jnp.where(label == 1, pos_weight, 1.0)
    return jnp.where(label >= 0, loss, 0.0)


def classification(
    logits: jax.Array, label: jax.Array, pos_weight: jax.Array | None = None
) -> jax.Array:
    """L_cls, and L_p-cl of whole images: cross-entropy averaged over classes, then over images.

    Args:
      logits: `[B, C]` float.
      label: `[B, C]`, 1 present, 0 absent, -1 ignored in its image's average.
      pos_weight: `[C]`, see `cross_entropy`.

    Returns:
      A float32 scalar.
    """
    return mean_over_classes(cross_entropy(logits, label, pos_weight), label).mean()


def mean_over_classes(entropy: jax.Array, label: jax.Array) -> jax.Array:
    """The mean of each image's classes that are not ignored, 0 where all are.

    Args:
      entropy: `[B, C]`, from `cross_entropy`.
      label: `[B, C]`, -1 where ignored.

    Returns:
      `[B]` float32.
    """
    return entropy.sum(axis=-1) / jnp.maximum((label >= 0).sum(axis=-1), 1)


def reconstruction(
    cam: jax.Array, cam_re: jax.Array, label: jax.Array, reduction: str
) -> jax.Array:
    """L_re: the L1 distance between the maps of the image and those tiled from its patches.

    Args:
      cam: `A`, `[N, h, w, K]` float.
      cam_re: `A_re`, `[N, h, w, K]` float.
      label: `[N, K]`, 1 for the classes that are present.
      reduction: 'masked' counts the labelled classes and averages over all h * w * K values
        (PuzzleCAM's masking); 'mean' counts every class.

    Returns:
      `[N]` float32, of each example.
    """
    distance = jnp.abs(cam - cam_re)
    if reduction == "masked":
        distance *= (label > 0)[:, None, None, :]
    return distance.mean((1, 2, 3))


def ramp(alpha: float, *, start_step: float, ramp_steps: float) -> optax.Schedule:
    """The weight of a loss: 0 before `start_step`, then linear to `alpha` over `ramp_steps`.

    Args:
      alpha: final weight.
      start_step: first step at which the loss counts.
      ramp_steps: length of the ramp; 0 switches on at once.

    Returns:
      A function from the number of steps done so far to a float32 scalar.
    """
    # Of no length, optax's ramp would stay where it begins.
    rise = (
        optax.linear_schedule(0.0, alpha, ramp_steps)
        if ramp_steps
        else optax.constant_schedule(alpha)
    )
    return optax.join_schedules([optax.constant_schedule(0.0), rise], [start_step])
