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
      batch_stats: running statistics of the student's BatchNorm; empty for an encoder without it.
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

    @property
    def model(self) -> dict[str, Tree]:
        """All that evaluation needs: `params`, `batch_stats` and `teacher`."""
        return {name: getattr(self, name) for name in ("params", "batch_stats", "teacher")}

    @property
    def optimizer(self) -> dict[str, Tree]:
        """The rest, which only training needs: `opt_state`, `rng` and `step`."""
        return {name: getattr(self, name) for name in ("opt_state", "rng", "step")}


def create_model(variables: Tree, *, teacher: str) -> dict[str, Tree]:
    """`TrainState.model` before the first step; an EMA teacher starts as the student.

    Args:
      variables: `{'params', 'batch_stats'}` of the network, the latter where it has any.
      teacher: as in `Method`.
    """
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    encoder = {"params": params["encoder"], "batch_stats": batch_stats.get("encoder", {})}
    return {
        "params": params,
        "batch_stats": batch_stats,
        # A copy: donated buffers must not be shared.
        "teacher": jax.tree.map(jnp.copy, encoder) if teacher == "ema" else {},
    }


def create_state(
    variables: Tree, *, tx: optax.GradientTransformation, rng: jax.Array, teacher: str
) -> TrainState:
    """The state before the first step.

    Args:
      variables: as for `create_model`.
      tx: the optimiser.
      rng: key of the run.
      teacher: as in `Method`.
    """
    model = create_model(variables, teacher=teacher)
    step = jnp.zeros((), jnp.int32)
    return TrainState(**model, opt_state=tx.init(model["params"]), rng=rng, step=step)


def networks(model: dict[str, Tree]) -> dict[str, Tree]:
    """The networks of a model: the student, and its head on the EMA encoder.

    Args:
      model: `TrainState.model`.

    Returns:
      'student', and where there is such a teacher 'ema' -> `{'params', 'batch_stats'}`.
    """
    params, batch_stats, teacher = (model[name] for name in ("params", "batch_stats", "teacher"))
    found = {"student": {"params": params, "batch_stats": batch_stats}}
    if teacher:
        encoder = {name: {"encoder": tree} for name, tree in teacher.items()}
        found["ema"] = encoder | {"params": params | encoder["params"]}
    return found


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
    student = {
        "params": state.params["encoder"],
        "batch_stats": state.batch_stats.get("encoder", {}),
    }
    return optax.incremental_update(student, teacher, 1.0 - decay)
