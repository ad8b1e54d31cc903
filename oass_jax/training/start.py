"""What a training begins with: its parts, its state, its batches."""

import functools
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from oass_jax.config_file import flatten
from oass_jax.data import pipeline
from oass_jax.data.checksums import Checksums
from oass_jax.default_config import OF_HOST, WITHOUT_EFFECT
from oass_jax.errors import UserError
from oass_jax.evaluation.evaluator import Evaluator
from oass_jax.model import pretrained, ssgrl
from oass_jax.model.network import Network
from oass_jax.run import build, processes, restore
from oass_jax.run.build import Batch
from oass_jax.run.checkpoint import MODEL, OPTIMIZER, Checkpoints
from oass_jax.run.console import Console
from oass_jax.run.state import TrainState, create_state
from oass_jax.run.workdir import Workdir
from oass_jax.training.build import (
    Schedule,
    create_optimizer,
    create_schedule,
    create_train_fn,
    num_epochs,
    positive_weight,
)

# How validation images are drawn, once; and what a run that has ended may be called with otherwise.
_OF_SPLIT = frozenset({"data.val_fraction", "data.split_seed"})
_MAY_CHANGE = WITHOUT_EFFECT.union(OF_HOST, ("model.pretrained", "model.label_vectors")) - {
    *("seed", "eval.dataset", "eval.split")
}


class Parts(NamedTuple):
    """What a training is made of.

    Attributes:
      split: that is trained on.
      network: encoder and classifiers.
      evaluator: of the validation split.
      schedule: the run in steps.
      tx: the optimiser.
      rates: name -> learning rate by step.
      train_fn: see `build.create_train_fn`.
    """

    split: pipeline.Split
    network: Network
    evaluator: Evaluator
    schedule: Schedule
    tx: optax.GradientTransformation
    rates: dict[str, Callable]
    train_fn: Callable


class Begun(NamedTuple):
    """Where a training goes on from.

    Attributes:
      state: the first one, or that of a checkpoint.
      unlogged: `Monitor.unlogged` of it; None at the start.
      evaluation_due: whether it was stopped before this step was evaluated.
      notes: about it, a line each.
    """

    state: TrainState
    unlogged: dict | None
    evaluation_due: bool
    notes: list[str]


def create_parts(config: ConfigDict, folder: Workdir, mesh: Mesh, console: Console) -> Parts:
    """Opens the data and builds what a training is made of.

    Args:
      config: every field; `num_epochs` is set where it is left to the number of images.
      folder: the workdir.
      mesh: one axis, `data`.
      console: for the evaluator.

    Raises:
      UserError: an error in the config or the data.
    """
    split = build.open_split(config, folder, config.data.dataset, config.data.split)
    network = build.create_network(config, len(split.class_names))
    evaluated = build.open_split(
        config, folder, config.eval.dataset, config.eval.split, class_names=split.class_names
    )
    evaluator = Evaluator(config, folder, evaluated, network, mesh, console)
    _refuse_unlabelled(split, "data.split")
    _refuse_unlabelled(evaluated, "eval.split")
    by_boxes = config.keypoint.strategy == "gt_bbox" and build.has_patches(config)
    if by_boxes and not split.has_boxes:
        raise UserError(
            f"{split.name} {split.split} has no boxes, which --config.keypoint.strategy=gt_bbox "
            "needs: choose another, such as max"
        )
    config.num_epochs = config.num_epochs or num_epochs(len(split))
    schedule = create_schedule(config, len(split))
    tx, rates = create_optimizer(config, schedule)
    pos_weight = positive_weight(config, split)
    train_fn = create_train_fn(config, network, tx, schedule, mesh, pos_weight=pos_weight)
    return Parts(split, network, evaluator, schedule, tx, rates, train_fn)


def restore_or_start(
    config: ConfigDict,
    parts: Parts,
    mesh: Mesh,
    checkpoints: Checkpoints,
    fingerprint: dict,
) -> Begun:
    """Restores the last checkpoint, or makes the first state where there is none.

    Args:
      config: `seed`, `teacher.mode` and `model` are read.
      parts: of the training.
      mesh: one axis, `data`.
      checkpoints: of the run.
      fingerprint: of the input, see the function.

    Raises:
      UserError: the checkpoints are damaged or of another run, or there are no weights to start
        from.
    """
    network = parts.network
    create = functools.partial(create_state, tx=parts.tx, teacher=config.teacher.mode)
    # Not the key of the initialisers.
    rng = jax.random.fold_in(jax.random.PRNGKey(config.seed), 1)
    if steps := checkpoints.steps()[::-1]:
        first = build.abstract(lambda: create(build.init_variables(network, 0), rng=rng), mesh)
        like = {MODEL: first.model, OPTIMIZER: first.optimizer}
        found = checkpoints.restore(like, steps=steps, fingerprint=fingerprint)
        state = TrainState(**found.items[MODEL], **found.items[OPTIMIZER])
        notes = [f"resumed from the checkpoint of step {found.step}"]
        return Begun(state, found.unlogged, found.evaluation_due, notes)
    variables = build.init_variables(network, config.seed)
    run = _pretrained_run(config)
    processes.agree({"model.pretrained": "a workdir" if run else "weights"})
    with processes.together():
        variables, notes = _first_variables(config, parts, variables, has_run=run is not None)
    if run:  # not together: its checkpoints are opened by all processes in step
        class_names = parts.split.class_names
        variables, note = restore.transfer(run, variables, config=config, class_names=class_names)
        notes.append(note)
    processes.agree({"first weights": _checksum(variables)})
    state = jax.device_put(create(variables, rng=rng), build.replicated(mesh))
    return Begun(state, None, False, notes)


def _first_variables(
    config: ConfigDict, parts: Parts, variables: dict, *, has_run: bool
) -> tuple[dict, list[str]]:
    """The variables with vectors and weights from files instead of the initialisers', and notes."""
    network, split, notes = parts.network, parts.split, []
    if config.model.graph:
        vectors = build.label_vectors(config, len(split.class_names))
        variables = ssgrl.prepare(variables, split.labels(config.data.difficult), vectors)
    if config.model.pretrained and not has_run:
        variables, report = pretrained.load_pretrained(
            config.model.pretrained, variables, network.encoder
        )
        if parts_of := report.partly_loaded():
            raise UserError(
                f"{config.model.pretrained} holds {parts_of} of the encoder {config.model.encoder} "
                f"only in part ({report.summary()}): it is of another encoder; set model.encoder "
                "and model.pretrained to two that go together"
            )
        notes.append(report.summary())
    return variables, notes


def _checksum(variables: dict) -> int:
    """Of all that a run begins with, where several processes have to begin alike."""
    if jax.process_count() == 1:
        return 0
    leaves = jax.tree.leaves(variables)
    return functools.reduce(lambda crc, x: zlib.crc32(np.ascontiguousarray(x), crc), leaves, 0)


def _pretrained_run(config: ConfigDict) -> Workdir | None:
    """The run that `model.pretrained` names; None where it names none."""
    folder = Workdir(Path(config.model.pretrained).expanduser(), writes=False)
    return folder if config.model.pretrained and folder.config.is_file() else None


def fingerprint(config: ConfigDict, split: pipeline.Split) -> dict:
    """What has to be the same for a resumed run to see the input of the interrupted one."""
    return pipeline.fingerprint(
        split, build.read_options(config), batch_size=config.batch_size, seed=config.seed
    )


def refuse_other_config(
    config: ConfigDict, folder: Workdir, schedule: Schedule, begun: Begun
) -> Begun:
    """Refuses settings that the run in the workdir would only be said to have.

    A run that goes on may be given others, which are noted. One that has ended may not, or its
    results would be taken for theirs; but other settings of its evaluation make that due again.

    Args:
      config: every field.
      folder: the workdir, with the config of the last start.
      schedule: of the config.
      begun: where the training goes on from.

    Returns:
      `begun`, with the evaluation due where it is to be made again.

    Raises:
      UserError: fewer steps are wanted than were made; the run has ended and was trained
        otherwise; or its validation images were drawn otherwise.
    """
    before, step = folder.fields(), int(begun.state.step)
    now = json.loads(json.dumps(flatten(config.to_dict())))  # tuples are lists there
    changed = {
        name: f"{name} was {before[name]!r}, is {now[name]!r}"
        for name in sorted(now.keys() & before.keys())
        if before[name] != now[name]
    }
    if folder.split_list.is_file() and (of_split := changed.keys() & _OF_SPLIT):
        raise UserError(
            f"{folder.split_list} was drawn with other settings "
            f"({'; '.join(changed[name] for name in sorted(of_split))}): choose another workdir"
        )
    if step > schedule.total_steps:
        raise UserError(
            f"{folder.root} has made {step:,} steps already, and num_epochs="
            f"{config.num_epochs:g} makes {schedule.total_steps:,}: choose another workdir"
        )
    if step < schedule.total_steps:
        return begun
    of_results = {
        name: text
        for name, text in changed.items()
        if name not in _MAY_CHANGE and not name.startswith("cam.")
    }
    # With another checkpoint the thresholds would be those of the one before.
    trained = [
        text
        for name, text in of_results.items()
        if not name.startswith("eval.") or name == "eval.checkpoint"
    ]
    if trained:
        raise UserError(
            f"the run in {folder.root} has ended with other settings, {'; '.join(trained)}: choose "
            "another workdir"
        )
    return begun._replace(evaluation_due=begun.evaluation_due or bool(of_results))


def train_batches(
    config: ConfigDict, split: pipeline.Split, start: int, mesh: Mesh, checksums: Checksums
) -> Iterator[Batch]:
    """Endless batches on the devices, from the one of the step after `start`."""
    for batch in host_batches(config, split, start):
        checksums.check(batch)
        yield build.to_device(batch, pipeline.TRAIN_FIELDS, mesh)


def host_batches(
    config: ConfigDict, split: pipeline.Split, start: int
) -> Iterator[dict[str, np.ndarray]]:
    """This process's part of endless batches, from the one of the step after `start`."""
    return pipeline.train_batches(
        split,
        build.read_options(config),
        batch_size=config.batch_size,
        seed=config.seed,
        start_step=start,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def _refuse_unlabelled(split: pipeline.Split, field: str) -> None:
    if not split.has_labels():
        raise UserError(
            f"{split.name} {split.split} has no labels, which training needs: set {field} to "
            "another; --mode=eval predicts this one afterwards"
        )
