"""Opens a finished run, or one under way: folder -> config, class names, network and weights."""

from typing import Any, NamedTuple

from jax.sharding import Mesh
from ml_collections import ConfigDict

from oass_jax import config_file
from oass_jax.errors import UserError
from oass_jax.model.network import Network
from oass_jax.run import build
from oass_jax.run.checkpoint import MODEL, Checkpoints
from oass_jax.run.state import create_model
from oass_jax.run.workdir import Workdir


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


def open_run(folder: Workdir, *, config: ConfigDict | None = None) -> Run:
    """Opens a run. Nothing of its optimiser is built or read.

    Args:
      folder: the workdir.
      config: the run's own, of which `eval.checkpoint` names the checkpoint; None reads it from
        the workdir.

    Raises:
      UserError: there is no run or no such checkpoint, or every one is damaged.
    """
    class_names = folder.read_classes()
    config = config_file.from_json(folder.config) if config is None else config
    mesh = build.create_mesh()
    network = build.create_network(config, len(class_names))

    def create() -> dict[str, Any]:
        return create_model(build.init_variables(network, 0), teacher=config.teacher.mode)

    checkpoints = Checkpoints(folder.checkpoints, keep_last=1, read_only=True)
    try:
        steps = _steps(checkpoints, config.eval.checkpoint)
        if not steps:
            raise UserError(
                f"there is no {config.eval.checkpoint} checkpoint in {folder.root}: train first"
            )
        like = build.abstract(create, mesh)
        found = checkpoints.restore({MODEL: like}, steps=steps, fingerprint=None)
    finally:
        checkpoints.close()
    return Run(config, class_names, network, found.items[MODEL], found.step, mesh)


def _steps(checkpoints: Checkpoints, which: str) -> list[int]:
    """The steps to try, most wanted first: all from the last back, or the best alone."""
    if which == "last":
        return checkpoints.steps()[::-1]
    best = checkpoints.best_step()
    return [] if best is None else [best]
