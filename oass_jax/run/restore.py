"""Opens a finished run, or one under way: folder -> config, class names, network and weights."""

from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from oass_jax import config_file
from oass_jax.errors import UserError
from oass_jax.model.network import Network
from oass_jax.run import build
from oass_jax.run.checkpoint import MODEL, Checkpoints
from oass_jax.run.state import create_model, networks
from oass_jax.run.workdir import Workdir

# SSGRL's, which a checkpoint holds with the other parameters.
_LABEL_VECTORS = "['params']['graph_head']['label_vectors']"


class Run(NamedTuple):
    """A run as its workdir holds it.

    Attributes:
      config: every field.
      class_names: in the order of the scores.
      network: encoder f and classifiers.
      model: `TrainState.model`: `params`, `batch_stats` and `teacher`.
      step: of the checkpoint.
      mesh: one axis, `data`, over every device; the model is replicated on it.
    """

    config: ConfigDict
    class_names: tuple[str, ...]
    network: Network
    model: dict[str, Any]
    step: int
    mesh: Mesh


def open_run(folder: Workdir, *, config: ConfigDict | None = None, step: int | None = None) -> Run:
    """Opens a run. Nothing of its optimiser is built or read.

    Args:
      folder: the workdir.
      config: the run's own; None reads it from the workdir.
      step: of the checkpoint; None for the one that `eval.checkpoint` of the config names.

    Raises:
      UserError: there is no run or no such checkpoint, or every one is damaged.
    """
    class_names = folder.read_classes()
    config = config_file.from_json(folder.config) if config is None else config
    mesh = build.create_mesh()
    checkpoints = Checkpoints(folder.checkpoints, keep_last=1, read_only=True)
    try:
        wanted = config.eval.checkpoint if step is None else step
        steps = _steps(checkpoints, wanted)
        if not steps:
            name = wanted if step is None else f"step {step}"
            raise UserError(f"there is no {name} checkpoint in {folder.root}: train first")
        vectors = checkpoints.saved_shape(steps, _LABEL_VECTORS)
        network = build.create_network(
            config, len(class_names), vector_size=vectors[1] if vectors else None
        )
        like = build.abstract(
            lambda: create_model(build.init_variables(network, 0), teacher=config.teacher.mode),
            mesh,
        )
        found = checkpoints.restore({MODEL: like}, steps=steps, fingerprint=None)
    finally:
        checkpoints.close()
    return Run(config, class_names, network, found.items[MODEL], found.step, mesh)


def transfer(
    folder: Workdir, variables: dict[str, Any], *, config: ConfigDict, class_names: tuple[str, ...]
) -> tuple[dict[str, Any], str]:
    """Replaces untrained variables by those of another run, of the weights that it evaluates.

    The classifier of a class is taken by its name. CSI's and SSGRL's heads relate the classes to
    one another: they are taken where all classes are the same.

    Args:
      folder: the workdir of the other run.
      variables: of the network of this one.
      config: of this run; `model.encoder` is read.
      class_names: of this run.

    Returns:
      The variables, and a line that says what was taken.

    Raises:
      UserError: there is no checkpoint to take them from, or it has another encoder.
    """
    other = open_run(folder)
    theirs, ours = other.config.model.encoder, config.model.encoder
    if theirs != ours:
        raise UserError(
            f"the run in {folder.root} has the encoder {theirs}, this one {ours}: set "
            f"--config.model.encoder={theirs}"
        )
    trained = networks(other.model)[other.config.eval.weights]
    params = variables["params"] | {"encoder": trained["params"]["encoder"]}
    if other.class_names == class_names:
        params |= {name: tree for name, tree in trained["params"].items() if name in params}
    shared = [name for name in class_names if name in other.class_names]
    # Of integers, also where there is none.
    target = np.array([class_names.index(name) for name in shared], int)
    source = np.array([other.class_names.index(name) for name in shared], int)
    kernel = trained["params"]["head"]["kernel"][:, source]
    head = params["head"] | {"kernel": params["head"]["kernel"].at[:, target].set(kernel)}
    note = (
        f"starts from {folder.root}, step {other.step}: its encoder, and its classifier for "
        f"{len(shared)} of {len(class_names)} classes"
    )
    return variables | {"params": params | {"head": head}} | _statistics(trained), note


def _statistics(trained: dict[str, Any]) -> dict[str, Any]:
    # An encoder without batch normalisation has none.
    return {"batch_stats": trained["batch_stats"]} if trained["batch_stats"] else {}


def _steps(checkpoints: Checkpoints, wanted: str | int) -> list[int]:
    """The steps to try, first choice first: all from the last back, or the one asked for."""
    if wanted == "last":
        return checkpoints.steps()[::-1]
    only = checkpoints.best_step() if wanted == "best" else wanted
    return [step for step in checkpoints.steps() if step == only]
