"""Adam with decoupled weight decay, a learning rate for each part, warm-up and cosine."""

from collections.abc import Callable
from typing import Any

import jax
import optax

DECAYED = "kernel"


def learning_rate(
    peak: float, *, total_steps: int, warmup_steps: int
) -> Callable[[jax.typing.ArrayLike], jax.Array]:
    """Linear warm-up from 0 to `peak`, then half a cosine to 0.

    Args:
      peak: learning rate after the warm-up.
      total_steps: steps of the whole run.
      warmup_steps: steps of the warm-up, fewer than `total_steps`.

    Returns:
      A function from step to learning rate.
    """
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=peak,
        warmup_steps=warmup_steps,
        decay_steps=total_steps,
    )


def create_optimizer(
    *,
    encoder_schedule: optax.Schedule,
    head_schedule: optax.Schedule,
    weight_decay: float,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay on kernels only; the encoder learns at a rate of its own.

    Args:
      encoder_schedule: learning rate of everything under `params['encoder']`.
      head_schedule: learning rate of everything else, which starts untrained.
      weight_decay: per step, times the learning rate; not on biases and BatchNorm.

    Returns:
      A transformation of the tree `{'encoder': ..., 'head': ..., ...}`.
    """

    def is_decayed(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == DECAYED, params)

    def part(params: dict) -> dict:
        return {name: "encoder" if name == "encoder" else "head" for name in params}

    schedules = {"encoder": encoder_schedule, "head": head_schedule}
    return optax.partition(
        {
            name: optax.adamw(schedule, weight_decay=weight_decay, mask=is_decayed)
            for name, schedule in schedules.items()
        },
        part,
    )
