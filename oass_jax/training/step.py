"""The training step: Fig. 3 of the paper as one pure function of state and batch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from oass_jax.image import augment
from oass_jax.model.network import Network
from oass_jax.run.state import TrainState, ema_update
from oass_jax.training import losses
from oass_jax.training.method import Method, Views
from oass_jax.training.microbatch import mean_gradient

Tree = Any


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    network: Network,
    tx: optax.GradientTransformation,
    method: Method,
    augment_fn: Callable[[jax.Array, dict[str, jax.Array]], Views],
    num_microbatches: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step: augment, losses, gradient, optimiser, EMA.

    If a loss, the gradient or a running statistic is not finite, the whole state but its step
    stays what it was.

    Under `jax.jit` with a batch sharded over devices it computes what one device would:
    BatchNorm's statistics are those of the whole batch, and each image draws from its own key.

    Args:
      state: donated by the caller.
      batch: `image` `[B, h, w, 3]` uint8, `size` `[B, 2]`, `label` `[B, C]`, `boxes` and
        `box_label`, as `data.pipeline` makes them.
      network: encoder f and classifier g.
      tx: the optimiser.
      method: supervised, PuzzleCAM or OASS.
      augment_fn: keys `[B]` and batch -> what the network sees, see `augment_batch`.
      num_microbatches: see `microbatch.mean_gradient`.

    Returns:
      The next state and float32 scalars: the losses, their weights, the gradient's norm, and
      `skipped`, 1 where the step was not taken.
    """
    rng = jax.random.fold_in(state.rng, state.step)
    rng = jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(batch["image"].shape[0]))
    views = augment_fn(rng, batch)
    loss_fn = functools.partial(total_loss, network=network, method=method)
    batch_stats, metrics, grads = mean_gradient(loss_fn, state, views, num_microbatches)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    metrics["grad_norm"] = optax.tree.norm(grads)
    new_state = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
    )
    if method.teacher == "ema":
        teacher = ema_update(state.teacher, new_state, state.step, method.ema_decay)
        new_state = new_state.replace(teacher=teacher)
    # As one array: a reduction for each of many small ones takes seconds to compile.
    taken = jnp.isfinite(ravel_pytree((metrics, batch_stats))[0]).all()
    kept = state.replace(step=new_state.step)
    new_state = jax.tree.map(functools.partial(jnp.where, taken), new_state, kept)
    return new_state, metrics | {"skipped": 1.0 - taken}


def augment_batch(
    rng: jax.Array,
    batch: dict[str, jax.Array],
    *,
    image_px: int,
    min_px: int,
    max_px: int,
    flip_probability: float,
    precision: jax.lax.PrecisionLike,
) -> Views:
    """Places each image at random, see `image.augment` (Sec. 3.1).

    Args:
      rng: `[B]` keys, one for each image.
      batch: as for `train_step`.
      image_px: side of the canvas, H = W.
      min_px: smallest long side of an image on it.
      max_px: largest long side.
      flip_probability: of exchanging left and right.
      precision: of resampling, see `image.geometry.float32_precision`.
    """
    placement = augment.random_placement(
        rng,
        batch["size"],
        out_px=image_px,
        min_px=min_px,
        max_px=max_px,
        flip_probability=flip_probability,
    )
    image = augment.place_images(batch["image"], placement, image_px, precision=precision)
    boxes, box_label = augment.place_boxes(batch["boxes"], batch["box_label"], placement, image_px)
    # The first three draws are those of the placement.
    rng = jax.vmap(jax.random.fold_in, (0, None))(rng, 3)
    return Views(image, batch["label"], placement.window, boxes, box_label, rng)


def total_loss(
    params: Tree, state: TrainState, views: Views, *, network: Network, method: Method
) -> tuple[jax.Array, tuple[Tree, dict[str, jax.Array]]]:
    """L = L_cls + alpha_p * L_p-cl + alpha_re * L_re (Sec. 2.1, Fig. 3).

    Whatever else classifies, such as CSI (Sec. 2.2), has a loss like L_cls, which is added.

    Args:
      params: those of the student, with gradient.
      state: everything else.
      views: the augmented batch.
      network: encoder f and classifiers.
      method: the teacher, keypoint and weights.

    Returns:
      The loss, the new running statistics, and the metrics as float32 scalars.
    """
    student = losses.classification_losses(
        params, state.batch_stats, views, network=network, method=method
    )
    total = sum(student.losses.values())
    if method.strategy is None:
        return total, (student.batch_stats, student.losses | {"loss": total})
    is_channel_wise = method.strategy.channel_wise
    puzzle_fn = losses.pair_puzzle_losses if is_channel_wise else losses.image_puzzle_losses
    puzzle = puzzle_fn(params, student, state, views, network=network, method=method)
    total += puzzle.total
    metrics = student.losses | puzzle.losses | {"loss": total}
    metrics |= {"alpha_p": method.alpha_p(state.step), "alpha_re": method.alpha_re(state.step)}
    return total, (puzzle.batch_stats, metrics)
