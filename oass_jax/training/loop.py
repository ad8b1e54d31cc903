"""train_and_evaluate: restore, step, evaluate, save."""

import contextlib
import errno
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from oass_jax.config_file import flatten
from oass_jax.data import pipeline
from oass_jax.data.checksums import Checksums
from oass_jax.errors import DivergedError, EvaluationStoppedError, StoppedError, UserError
from oass_jax.evaluation import score_files
from oass_jax.evaluation.evaluator import Evaluator
from oass_jax.evaluation.pictures import Pictures
from oass_jax.run import build, model_card, processes, workdir
from oass_jax.run.build import Batch
from oass_jax.run.checkpoint import MODEL, OPTIMIZER, Checkpoints
from oass_jax.run.console import Console
from oass_jax.run.state import TrainState
from oass_jax.run.workdir import Workdir
from oass_jax.training import start
from oass_jax.training.build import Schedule, chance_loss
from oass_jax.training.metric_writer import MetricWriter
from oass_jax.training.monitor import Monitor
from oass_jax.training.stop import StopRequest

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
    with contextlib.ExitStack() as stack:
        with processes.together():
            stack.enter_context(folder.locked())
        try:
            processes.require_shared(folder)
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
    console = Console(quiet=not folder.writes)
    with processes.together():
        parts = start.create_parts(config, folder, mesh, console)
    split, evaluator, schedule = parts.split, parts.evaluator, parts.schedule
    pictures = Pictures(config, folder, parts.network, mesh, evaluator.split)
    fingerprint = start.fingerprint(config, split)
    processes.agree(fingerprint | pipeline.evaluated(evaluator.split))
    checkpoints = Checkpoints(folder.checkpoints, keep_last=config.checkpoint.keep_last)
    begun = start.restore_or_start(config, parts, mesh, checkpoints, fingerprint)
    first_step = int(begun.state.step)
    checksums = Checksums(split, folder.read_bytes(folder.checksums))
    # All have read the last config before one of them writes this one.
    with processes.together():
        begun = start.refuse_other_config(config, folder, parts.schedule, begun)
    with processes.together():
        _announce(config, folder, parts, begun, mesh, console)
        writer = MetricWriter(folder, step=first_step, evaluation_due=begun.evaluation_due)
    monitor = _create_monitor(config, parts, begun, writer, console)
    stop = StopRequest(console.say, timeout_s=config.distributed.timeout_s)

    # Closed in reverse order, each whatever another one raises.
    with (
        contextlib.closing(checkpoints),
        contextlib.closing(writer),
        contextlib.closing(console),
    ):
        console.begin(step=first_step, total_steps=schedule.total_steps)
        try:
            _loop(
                begun.state,
                schedule,
                start.train_batches(config, split, first_step, mesh, checksums),
                train_fn=parts.train_fn,
                monitor=monitor,
                stop=stop,
                evaluation_due=begun.evaluation_due,
                evaluate_fn=functools.partial(
                    _evaluate,
                    stop=stop,
                    checkpoints=checkpoints,
                    predicts_best=config.eval.checkpoint == "best",
                    evaluator=evaluator,
                    pictures=pictures,
                    folder=folder,
                    writer=writer,
                    console=console,
                ),
                save_fn=functools.partial(
                    _save,
                    checkpoints=checkpoints,
                    fingerprint=fingerprint,
                    monitor=monitor,
                    folder=folder,
                    checksums=checksums,
                ),
            )
            checkpoints.wait()
        except DivergedError as error:
            saved = checkpoints.steps()
            last = (
                f"the last checkpoint is of step {saved[-1]}"
                if saved
                else "no checkpoint was saved"
            )
            raise DivergedError(f"{error}; {last}") from None
    folder.write_end()
    model_card.write(folder)
    _print_result(config, folder)


def _create_monitor(
    config: ConfigDict,
    parts: start.Parts,
    begun: start.Begun,
    writer: MetricWriter,
    console: Console,
) -> Monitor:
    return Monitor(
        writer,
        console,
        start=int(begun.state.step),
        total_steps=parts.schedule.total_steps,
        steps_per_epoch=parts.schedule.steps_per_epoch,
        batch_size=config.batch_size,
        log_every=config.log_every_steps,
        rates=parts.rates,
        images_of=functools.partial(_images_of, config, parts.split),
        chance_loss_fn=functools.partial(chance_loss, config, parts.split),
        unlogged=begun.unlogged,
    )


def _announce(
    config: ConfigDict,
    folder: Workdir,
    parts: start.Parts,
    begun: start.Begun,
    mesh: Mesh,
    console: Console,
) -> None:
    """Writes down this start, and prints what is about to happen."""
    split, evaluated = parts.split, parts.evaluator.split
    notes = [*begun.notes, *dict.fromkeys((*split.notes, *evaluated.notes))]
    notes += build.margin_note(config, parts.network.encoder.stride)
    notes += build.dtype_note(config, mesh.devices.flat[0])
    notes += folder.write_start(
        step=int(begun.state.step),
        config=config.to_dict(),
        class_names=split.class_names,
        devices=[device.device_kind for device in jax.devices()],
        num_processes=jax.process_count(),
    )
    if split.split_list:
        folder.write_text(folder.split_list, split.split_list)
    about = _about(config, folder, split, evaluated, parts.schedule, begun.state, mesh)
    for line in about + notes:
        console.say(line)


def _loop(
    state: TrainState,
    schedule: Schedule,
    batches: Iterator[Batch],
    *,
    train_fn: Callable,
    monitor: Monitor,
    stop: StopRequest,
    evaluation_due: bool,
    evaluate_fn: Callable[[TrainState, int], float],
    save_fn: Callable,
) -> None:
    """Steps, evaluations and checkpoints, from the state's step to the last."""
    first = int(state.step) + 1

    def save(state: TrainState, step: int, *, evaluates: bool, stops: bool) -> None:
        val_map = None
        if evaluates and not stops:
            try:
                val_map = evaluate_fn(state, step)
            except EvaluationStoppedError:
                stops = True
        save_fn(state, step=step, val_map=val_map, evaluation_due=evaluates and val_map is None)
        if stops:
            raise StoppedError(step)

    with stop:
        if evaluation_due:
            with monitor.paused():
                save(state, first - 1, evaluates=True, stops=False)
        for step in range(first, schedule.total_steps + 1):
            try:
                batch = monitor.wait_for(batches)
            except UserError:  # a damaged image must not cost the steps before it
                monitor.settle()
                # Other processes have read their images: a save would wait for them for ever.
                if step > first and jax.process_count() == 1:
                    save_fn(state, step=step - 1, val_map=None, evaluation_due=False)
                raise
            with monitor.compiling() if step == first else contextlib.nullcontext():
                state, metrics = train_fn(state, batch)
            monitor.add(step, metrics)
            stops, evaluates = stop.reached(), step in schedule.eval_steps
            if stops or evaluates or step % schedule.save_every == 0:
                monitor.settle()  # what has been logged is saved with the state
                with monitor.paused():
                    save(state, step, evaluates=evaluates, stops=stops)


def _evaluate(
    state: TrainState,
    step: int,
    *,
    evaluator: Evaluator,
    pictures: Pictures,
    folder: Workdir,
    writer: MetricWriter,
    console: Console,
    stop: StopRequest,
    checkpoints: Checkpoints,
    predicts_best: bool,
) -> float:
    """Evaluates, writes what was found, and returns the mAP in percent."""
    evaluation, metrics = evaluator(state.model, step, stops_fn=stop.reached)
    if predicts_best and metrics["val/map"] < (checkpoints.best_map() or 0.0):
        # Thresholds are of the network that will use them.
        evaluation = evaluation._replace(keeps_thresholds=False)
    score_files.write(folder, evaluation)
    writer.write(step, metrics)
    drawn = pictures(state.model, evaluation)
    writer.write_images(step, {f"val/{each.name}": each.jpeg for each in drawn})
    maps = {name: x for name, x in metrics.items() if name.startswith("val/map")}
    console.say("  ".join(f"{name} {value:.2f}" for name, value in maps.items()))
    return metrics["val/map"]


def _save(
    state: TrainState,
    *,
    step: int,
    val_map: float | None,
    evaluation_due: bool,
    checkpoints: Checkpoints,
    fingerprint: dict,
    monitor: Monitor,
    folder: Workdir,
    checksums: Checksums,
) -> None:
    if checksums.num_read:
        folder.write_bytes(folder.checksums, checksums.to_bytes())
    items = {MODEL: state.model, OPTIMIZER: state.optimizer}
    checkpoints.save(
        items,
        step=step,
        fingerprint=fingerprint,
        val_map=val_map,
        unlogged=monitor.unlogged,
        evaluation_due=evaluation_due,
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
    title = model_card.title(flatten(config.to_dict()))
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return [
        f"{title}; {num_parameters / 1e6:.1f} million parameters",
        f"{mesh.size} x {mesh.devices.flat[0].device_kind}, {jax.process_count()} process(es)",
        f"trains on {split.name} {split.split}: {len(split):,} images of "
        f"{len(split.class_names)} classes, {schedule.steps_per_epoch:.1f} steps an epoch, "
        f"{schedule.total_steps:,} in all",
        f"evaluates on {eval_split.name} {eval_split.split}: {len(eval_split):,} images",
        f"writes to {folder.root}",
    ]


def _images_of(config: ConfigDict, split: pipeline.Split, step: int) -> list[str]:
    """File names of the images of a step, as far as this process reads them."""
    batch = next(start.host_batches(config, split, step - 1))
    return [split.filename(index) for index in batch["index"]]


def _print_result(config: ConfigDict, folder: Workdir) -> None:
    """Prints the last evaluation, which a finished run that is started again did not make."""
    target = folder.evaluation(config.eval.dataset, config.eval.split)
    summary = workdir.read_summary(target / workdir.SUMMARY)
    if folder.writes and summary:
        print(score_files.result_table(summary, target), flush=True)
