"""What a run is, its first state, and how the teacher follows the student."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

Tree = Any


@flax.struct.dataclass
class TrainState:
    """All that a run is, beside its input.

    Attributes:
      step: int32 scalar, steps done.
      params: `{'encoder': theta, 'head': phi}`, float32.
      batch_stats: running statistics of the student's BatchNorm.
      teacher: `{'params', 'batch_stats'}` of the EMA encoder; empty without such a teacher.
      opt_state: of optax.
      rng: key of the run; never advanced, each step folds its number in.
    """

    step: jax.Array
    params: Tree
    batch_stats: Tree
    teacher: Tree
    opt_state: optax.OptState
    rng: jax.Array


def create_state(
    variables: Tree, *, tx: optax.GradientTransformation, rng: jax.Array, teacher: str
) -> TrainState:
    """The state before the first step; an EMA teacher starts as the student.

    Args:
      variables: `{'params', 'batch_stats'}` of the network.
      tx: the optimiser.
      rng: key of the run.
      teacher: as in `Method`.
    """
    encoder = {name: variables[name]["encoder"] for name in ("params", "batch_stats")}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        # A copy: donated buffers must not be shared.
        teacher=jax.tree.map(jnp.copy, encoder) if teacher == "ema" else {},
        opt_state=tx.init(variables["params"]),
        rng=rng,
    )


def ema_update(teacher: Tree, state: TrainState, step: jax.Array, max_decay: float) -> Tree:
    """Moves the teacher towards the student: decay * teacher + (1 - decay) * student.

    The decay warms up as min(max_decay, (1 + step) / (10 + step)), so that the first, untrained
    encoders are soon forgotten. Parameters and BatchNorm statistics are averaged alike.

    Args:
      teacher: `{'params', 'batch_stats'}` of the EMA encoder.
      state: holds the student after the step.
      step: int scalar, steps done before this one.
      max_decay: decay after the warm-up.
    """
    decay = jnp.minimum(max_decay, (1.0 + step) / (10.0 + step))
    student = {"params": state.params["encoder"], "batch_stats": state.batch_stats["encoder"]}
    return optax.incremental_update(student, teacher, 1.0 - decay)
