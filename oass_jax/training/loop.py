"""train_and_evaluate: restore, step, evaluate, save."""

import contextlib
import errno
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import optax
import scipy.special
from jax.sharding import Mesh
from ml_collections import ConfigDict

from oass_jax.data import pipeline
from oass_jax.errors import DivergedError, StoppedError, UserError
from oass_jax.evaluation import score_files
from oass_jax.evaluation.evaluator import Evaluator
from oass_jax.model import pretrained, ssgrl
from oass_jax.model.network import Network
from oass_jax.run import build, workdir
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
)
from oass_jax.training.metric_writer import MetricWriter
from oass_jax.training.monitor import Monitor, StopRequest

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def train_and_evaluate(config: ConfigDict, folder: Workdir) -> None:
    """Trains from the last checkpoint in `folder`, or from the start, to the end.

    Args:
      config: every field of `oass_jax/default_config.py`.
      folder: the workdir; created if it does not exist.

    Raises:
      UserError: an error in the config, the data or the workdir.
      DivergedError: losses were not finite, step after step.
      StoppedError: a signal asked to stop; the state is saved.
    """
    mesh = build.create_mesh()
    build.require_even(mesh, "batch_size", config.batch_size, num_parts=config.num_microbatches)
    build.create_encoder(config)  # what it refuses is reported before anything is written or read
    with folder.locked():
        try:
            _train_and_evaluate(config, folder, mesh)
        except OSError as error:
            path = error.filename2 or error.filename or folder.root
            if error.errno not in _NO_ROOM and folder.root not in Path(path).parents:
                raise
            raise UserError(
                f"{path} cannot be written: {error.strerror}; make room for it: the same command "
                "continues from the last checkpoint"
            ) from error


def _train_and_evaluate(config: ConfigDict, folder: Workdir, mesh: Mesh) -> None:
    split = build.open_split(config, config.data.dataset, config.data.split)
    network = build.create_network(config, len(split.class_names))
    console = Console(quiet=not folder.writes)
    evaluator = Evaluator(config, folder, network, mesh, split.class_names, console)
    _refuse_unlabelled(split, "data.split")
    _refuse_unlabelled(evaluator.split, "eval.split")
    schedule = create_schedule(config, len(split))
    tx, rates = create_optimizer(config, schedule)
    fingerprint = _fingerprint(config, split)
    checkpoints = Checkpoints(folder.checkpoints, keep_last=config.checkpoint.keep_last)
    state, unlogged, notes = _restore_or_start(
        config, network, split, tx, mesh, checkpoints, fingerprint
    )
    start = int(state.step)
    notes += folder.write_start(
        step=start,
        config=config.to_dict(),
        class_names=split.class_names,
        devices=[device.device_kind for device in jax.devices()],
        num_processes=jax.process_count(),
    )
    for line in _about(config, folder, split, evaluator.split, schedule, state, mesh) + notes:
        console.say(line)
    console.begin(step=start, total_steps=schedule.total_steps)
    writer = MetricWriter(folder, step=start)
    monitor = Monitor(
        writer,
        console,
        start=start,
        total_steps=schedule.total_steps,
        steps_per_epoch=schedule.steps_per_epoch,
        batch_size=config.batch_size,
        log_every=config.log_every_steps,
        rates=rates,
        images_of=functools.partial(_images_of, config, split),
        chance_loss_fn=functools.partial(_chance_loss, split),
        unlogged=unlogged,
    )
    stop = StopRequest(console.say)

    try:
        _loop(
            state,
            schedule,
            _train_batches(config, split, start, mesh),
            train_fn=create_train_fn(config, network, tx, schedule, mesh),
            monitor=monitor,
            stop=stop,
            evaluate_fn=functools.partial(
                _evaluate, evaluator=evaluator, folder=folder, writer=writer, console=console
            ),
            save_fn=functools.partial(
                _save, checkpoints=checkpoints, fingerprint=fingerprint, monitor=monitor
            ),
        )
        checkpoints.wait()
    except DivergedError as error:
        saved = checkpoints.steps()
        last = f"the last checkpoint is of step {saved[-1]}" if saved else "no checkpoint was saved"
        raise DivergedError(f"{error}; {last}") from None
    finally:
        console.close()
        writer.close()
        checkpoints.close()
    folder.write_end()
    folder.write_readme(title=build.title(config))
    _print_result(config, folder)


def _loop(
    state: TrainState,
    schedule: Schedule,
    batches: Iterator[Batch],
    *,
    train_fn: Callable,
    monitor: Monitor,
    stop: StopRequest,
    evaluate_fn: Callable[[TrainState, int], float],
    save_fn: Callable,
) -> None:
    """Steps, evaluations and checkpoints, from the state's step to the last."""
    start = int(state.step) + 1
    with stop:
        for step in range(start, schedule.total_steps + 1):
            try:
                batch = monitor.wait_for(batches)
            except UserError:  # a damaged image must not cost the steps before it
                monitor.settle()
                if step > start:
                    save_fn(state, step=step - 1, val_map=None)
                raise
            with monitor.compiling() if step == start else contextlib.nullcontext():
                state, metrics = train_fn(state, batch)
            monitor.add(step, metrics)
            stops, evaluates = stop.number, step in schedule.eval_steps
            if stops or evaluates or step % schedule.save_every == 0:
                monitor.settle()  # what has been logged is saved with the state
                with monitor.paused():
                    val_map = evaluate_fn(state, step) if evaluates else None
                    save_fn(state, step=step, val_map=val_map)
            if stops:
                raise StoppedError(step)


def _evaluate(
    state: TrainState,
    step: int,
    *,
    evaluator: Evaluator,
    folder: Workdir,
    writer: MetricWriter,
    console: Console,
) -> float:
    """Evaluates, writes what was found, and returns the mAP in percent."""
    evaluation, metrics = evaluator(state.model, step)
    score_files.write(folder, evaluation)
    writer.write(step, metrics)
    maps = {name: x for name, x in metrics.items() if name.startswith("val/map")}
    console.say("  ".join(f"{name} {value:.2f}" for name, value in maps.items()))
    return metrics["val/map"]


def _save(
    state: TrainState,
    *,
    step: int,
    val_map: float | None,
    checkpoints: Checkpoints,
    fingerprint: dict,
    monitor: Monitor,
) -> None:
    items = {MODEL: state.model, OPTIMIZER: state.optimizer}
    checkpoints.save(
        items, step=step, fingerprint=fingerprint, val_map=val_map, unlogged=monitor.unlogged
    )


def _refuse_unlabelled(split: pipeline.Split, field: str) -> None:
    if not split.has_labels():
        raise UserError(
            f"{split.name} {split.split} has no labels, which training needs: set {field} to "
            "another; --mode=eval predicts this one afterwards"
        )


def _restore_or_start(
    config: ConfigDict,
    network: Network,
    split: pipeline.Split,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    checkpoints: Checkpoints,
    fingerprint: dict,
) -> tuple[TrainState, dict | None, list[str]]:
    """The state to go on from, `Monitor.unlogged` of it, and notes about it."""
    create = functools.partial(create_state, tx=tx, teacher=config.teacher.mode)
    # Not the key of the initialisers.
    rng = jax.random.fold_in(jax.random.PRNGKey(config.seed), 1)
    if steps := checkpoints.steps()[::-1]:
        first = build.abstract(lambda: create(build.init_variables(network, 0), rng=rng), mesh)
        like = {MODEL: first.model, OPTIMIZER: first.optimizer}
        found = checkpoints.restore(like, steps=steps, fingerprint=fingerprint)
        state = TrainState(**found.items[MODEL], **found.items[OPTIMIZER])
        notes = [f"resumed from the checkpoint of step {found.step}"]
        return state, found.unlogged, notes
    notes = []
    variables = build.init_variables(network, config.seed)
    if config.model.graph:
        vectors = build.label_vectors(config, len(split.class_names))
        variables = ssgrl.prepare(variables, split.labels(), vectors)
    if config.model.pretrained:
        variables, report = pretrained.load_pretrained(
            config.model.pretrained, variables, network.encoder
        )
        notes.append(report.summary())
    return jax.device_put(create(variables, rng=rng), build.replicated(mesh)), None, notes


def _fingerprint(config: ConfigDict, split: pipeline.Split) -> dict:
    return pipeline.fingerprint(
        split, build.read_options(config), batch_size=config.batch_size, seed=config.seed
    )


def _train_batches(
    config: ConfigDict, split: pipeline.Split, start: int, mesh: Mesh
) -> Iterator[Batch]:
    batches = _host_batches(config, split, start)
    return (build.to_device(batch, pipeline.TRAIN_FIELDS, mesh) for batch in batches)


def _host_batches(
    config: ConfigDict, split: pipeline.Split, start: int
) -> Iterator[dict[str, np.ndarray]]:
    return pipeline.train_batches(
        split,
        build.read_options(config),
        batch_size=config.batch_size,
        seed=config.seed,
        start_step=start,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def _about(
    config: ConfigDict,
    folder: Workdir,
    split: pipeline.Split,
    eval_split: pipeline.Split,
    schedule: Schedule,
    state: TrainState,
    mesh: Mesh,
) -> list[str]:
    """What is about to happen, in lines."""
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return [
        f"{build.title(config)}; {num_parameters / 1e6:.1f} million parameters",
        f"{mesh.size} x {mesh.devices.flat[0].device_kind}, {jax.process_count()} process(es)",
        f"trains on {split.name} {split.split}: {len(split):,} images of "
        f"{len(split.class_names)} classes, {schedule.steps_per_epoch:.1f} steps an epoch, "
        f"{schedule.total_steps:,} in all",
        f"evaluates on {eval_split.name} {eval_split.split}: {len(eval_split):,} images",
        f"writes to {folder.root}",
    ]


def _images_of(config: ConfigDict, split: pipeline.Split, step: int) -> list[str]:
    """File names of the images of a step, as far as this process reads them."""
    batch = next(_host_batches(config, split, step - 1))
    return [split.filename(index) for index in batch["index"]]


def _chance_loss(split: pipeline.Split) -> float:
    """The mean entropy of the classes' frequencies."""
    frequency = split.labels().mean(axis=0)
    return float((scipy.special.entr(frequency) + scipy.special.entr(1 - frequency)).mean())


def _print_result(config: ConfigDict, folder: Workdir) -> None:
    """Prints the last evaluation, which a finished run that is started again did not make."""
    target = folder.evaluation(config.eval.dataset, config.eval.split)
    summary = workdir.read_summary(target / workdir.SUMMARY)
    if folder.writes and summary:
        print(score_files.result_table(summary, target), flush=True)
