"""The gradient of a batch that does not fit into memory at once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from oass_jax.run.state import TrainState

Tree = Any


def mean_gradient(
    loss_fn: Callable[[Tree, TrainState, Tree], tuple[jax.Array, tuple[Tree, dict]]],
    state: TrainState,
    batch: Tree,
    num_microbatches: int,
) -> tuple[Tree, dict[str, jax.Array], Tree]:
    """Computes a gradient in parts, one after the other, in the memory of one.

    The losses are means over images, so their mean over equal parts is that of the batch. BatchNorm
    differs: it normalises by the part, and its running statistics move once for each.

    On a CPU this is many times slower: XLA brings convolutions into the form that is fast there
    outside of loops only.

    Args:
      loss_fn: `(params, state, part)` -> loss and `(batch_stats, metrics)`.
      state: before the step.
      batch: tree of `[B, ...]`.
      num_microbatches: the parts; B on every device is a multiple.

    Returns:
      The new running statistics, the metrics, and the gradient by `state.params`.
    """
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

    def gradient(batch_stats: Tree, part: Tree) -> tuple[Tree, tuple[dict, Tree]]:
        before = state.replace(batch_stats=batch_stats)
        (_, (batch_stats, metrics)), grads = grad_fn(state.params, before, part)
        return batch_stats, (metrics, grads)

    def add(carry: tuple[Tree, Tree], part: Tree) -> tuple[tuple[Tree, Tree], None]:
        batch_stats, values = gradient(carry[0], part)
        return (batch_stats, jax.tree.map(jnp.add, carry[1], values)), None

    if num_microbatches == 1:
        batch_stats, (metrics, grads) = gradient(state.batch_stats, batch)
        return batch_stats, metrics, grads
    # Every n-th image, so that each device has as many of every part.
    parts = jax.tree.map(
        lambda x: x.reshape(-1, num_microbatches, *x.shape[1:]).swapaxes(0, 1), batch
    )
    first = jax.tree.map(lambda x: x[0], parts)
    _, like = jax.eval_shape(gradient, state.batch_stats, first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    (batch_stats, sums), _ = jax.lax.scan(add, (state.batch_stats, zeros), parts)
    metrics, grads = jax.tree.map(lambda x: x / num_microbatches, sums)
    return batch_stats, metrics, grads
