"""train_and_evaluate: restore, step, evaluate, save.

Of the package, only this, the two `build` and the two evaluators read the config.
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from oass_jax.data import pipeline
from oass_jax.errors import UserError
from oass_jax.evaluation import cam_files, score_files
from oass_jax.evaluation.cam_evaluator import CamEvaluator
from oass_jax.evaluation.evaluator import Evaluator
from oass_jax.model import pretrained, ssgrl
from oass_jax.model.network import Network
from oass_jax.run import build, workdir
from oass_jax.run.build import Batch
from oass_jax.run.checkpoint import Checkpoints
from oass_jax.run.state import TrainState, create_state
from oass_jax.training import build as training_build
from oass_jax.training.build import Schedule
from oass_jax.training.metric_writer import Console, MetricWriter
from oass_jax.training.monitor import Monitor, StoppedError, StopRequest

FIELDS = ("image", "size", "label", "boxes", "box_label")  # of a batch, that the train step reads


def train_and_evaluate(config: ConfigDict, folder: Path) -> None:
    """Trains from the last checkpoint in `folder`, or from the start, to the end.

    Args:
      config: every field of `oass_jax/default_config.py`.
      folder: the workdir; made if it does not exist.

    Raises:
      UserError: a mistake in the config, the data or the workdir.
      DivergedError: a loss was not finite.
      StoppedError: a signal asked to stop; the state is saved.
    """
    mesh = build.create_mesh(config)
    build.create_encoder(config)  # what it refuses is told before anything is written or read
    workdir.create(folder)
    split = build.open_split(config, config.data.dataset, config.data.split)
    network = build.create_network(config, len(split.class_names))
    evaluator = Evaluator(config, folder, network, mesh, split.class_names)
    _refuse_unlabelled(split, "data.split")
    _refuse_unlabelled(evaluator.split, "eval.split")
    schedule = training_build.create_schedule(config, len(split))
    tx, rates = training_build.create_optimizer(config, schedule)
    fingerprint = _fingerprint(config, split)
    checkpoints = Checkpoints(folder / "checkpoints", keep_last=config.checkpoint.keep_last)
    state, notes = _restore_or_start(config, network, split, tx, mesh, checkpoints, fingerprint)
    start = int(state.step)
    notes += workdir.write_start(
        folder, step=start, config=config.to_dict(), class_names=split.class_names
    )
    console = Console(step=start, total_steps=schedule.total_steps)
    for note in notes:
        console.say(note)
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
    )

    def evaluate_fn(state: TrainState, step: int) -> float:
        metrics = evaluator(state, step)
        writer.write(step, metrics)
        maps = {name: x for name, x in metrics.items() if name.startswith("val/map")}
        console.say("  ".join(f"{name} {value:.2f}" for name, value in maps.items()))
        return metrics["val/map"]

    try:
        _loop(
            state,
            schedule,
            _train_batches(config, split, start, mesh),
            train_fn=training_build.create_train_fn(config, network, tx, schedule, mesh),
            monitor=monitor,
            evaluate_fn=evaluate_fn,
            save_fn=functools.partial(checkpoints.save, fingerprint=fingerprint),
        )
        checkpoints.wait()
    finally:
        console.close()
        writer.close()
        checkpoints.close()
    workdir.write_end(folder)
    _conclude(config, folder)


def _loop(
    state: TrainState,
    schedule: Schedule,
    batches: Iterator[Batch],
    *,
    train_fn: Callable,
    monitor: Monitor,
    evaluate_fn: Callable[[TrainState, int], float],
    save_fn: Callable,
) -> None:
    """Steps, evaluations and checkpoints, from the state's step to the last."""
    start = int(state.step) + 1
    with StopRequest() as stop:
        for step in range(start, schedule.total_steps + 1):
            try:
                batch = monitor.wait_for(batches)
            except UserError:  # a damaged image must not cost the steps before it
                monitor.settle()
                if step > start:
                    save_fn(state, step=step - 1, val_map=None)
                raise
            state, metrics = train_fn(state, batch)
            monitor.add(step, metrics)
            stops, evaluates = stop.number, step in schedule.eval_steps
            if stops or evaluates or step % schedule.save_every == 0:
                monitor.settle()  # nothing is saved after a loss that is not finite
                with monitor.paused():
                    val_map = evaluate_fn(state, step) if evaluates else None
                    save_fn(state, step=step, val_map=val_map)
            if stops:
                raise StoppedError(step, stops)


def evaluate_checkpoint(config: ConfigDict, folder: Path) -> None:
    """Evaluates a checkpoint of `folder` on `config.eval` and writes `eval/DATASET_SPLIT/`.

    Args:
      config: the config of the run; fields of `eval` may differ.
      folder: the workdir of a run.

    Raises:
      UserError: there is no such run or checkpoint, or the data set has other classes.
    """
    _apply_to_checkpoint(Evaluator, config, folder)
    _conclude(config, folder)


def evaluate_class_maps(config: ConfigDict, folder: Path) -> None:
    """Measures the class maps of a checkpoint of `folder` and writes `cams/DATASET_SPLIT/`.

    Args:
      config: the config of the run; fields of `eval` and `cam` may differ.
      folder: the workdir of a run.

    Raises:
      UserError: as `evaluate_checkpoint`; or the split has no masks, or a damaged one.
    """
    _apply_to_checkpoint(CamEvaluator, config, folder)
    _write_readme(config, folder)
    if jax.process_index() == 0:
        dataset, split = config.eval.dataset, config.cam.split
        target = cam_files.cam_folder(folder, dataset, split)
        print(cam_files.result_table(target, f"{dataset} {split}"), flush=True)


def _apply_to_checkpoint(
    evaluator_class: type[Evaluator] | type[CamEvaluator], config: ConfigDict, folder: Path
) -> None:
    """Builds an evaluator, restores the checkpoint that `config.eval` names, and applies it."""
    mesh = build.create_mesh(config)
    class_names = workdir.read_classes(folder)
    checkpoints = Checkpoints(folder / "checkpoints", keep_last=1, read_only=True)
    best = checkpoints.best_step()
    steps = checkpoints.steps()[::-1] if config.eval.checkpoint == "last" else [best]
    if not steps or steps == [None]:
        raise UserError(f"there is no {config.eval.checkpoint} checkpoint in {folder}: train first")
    network = build.create_network(config, len(class_names))
    evaluator = evaluator_class(config, folder, network, mesh, class_names)
    # The optimiser only shapes the state here: its schedule is not used.
    tx, _ = training_build.create_optimizer(
        config, training_build.create_schedule(config, config.batch_size)
    )
    like = build.abstract_state(network, tx, config.teacher.mode, mesh)
    state, step = checkpoints.restore(like, steps=steps, fingerprint=None)
    print(f"restored the checkpoint of step {step}", flush=True)
    evaluator(state, step)
    checkpoints.close()


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
) -> tuple[TrainState, list[str]]:
    """The state to go on from, and what to tell about it."""
    if checkpoints.steps():
        like = build.abstract_state(network, tx, config.teacher.mode, mesh)
        steps = checkpoints.steps()[::-1]
        state, step = checkpoints.restore(like, steps=steps, fingerprint=fingerprint)
        return state, [f"resumed from the checkpoint of step {step}"]
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
    state = create_state(
        variables,
        tx=tx,
        # Not the key of the initialisers.
        rng=jax.random.fold_in(jax.random.PRNGKey(config.seed), 1),
        teacher=config.teacher.mode,
    )
    return jax.device_put(state, build.replicated(mesh)), notes


def _fingerprint(config: ConfigDict, split: pipeline.Split) -> dict:
    return pipeline.fingerprint(
        split,
        batch_size=config.batch_size,
        seed=config.seed,
        canvas_px=config.data.canvas_px,
        max_boxes=config.data.max_boxes,
        difficult=config.data.difficult,
    )


def _train_batches(
    config: ConfigDict, split: pipeline.Split, start: int, mesh: Mesh
) -> Iterator[Batch]:
    batches = pipeline.train_batches(
        split,
        batch_size=config.batch_size,
        seed=config.seed,
        start_step=start,
        canvas_px=config.data.canvas_px,
        max_boxes=config.data.max_boxes,
        difficult=config.data.difficult,
        num_workers=config.data.num_workers,
        num_threads=build.num_threads(config),
        cache=config.data.cache,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    return (build.to_device(batch, FIELDS, mesh) for batch in batches)


def _conclude(config: ConfigDict, folder: Path) -> None:
    _write_readme(config, folder)
    if jax.process_index() == 0:
        print(score_files.result_table(folder, config.eval.dataset, config.eval.split), flush=True)


def _write_readme(config: ConfigDict, folder: Path) -> None:
    workdir.write_readme(folder, title=title(config))


def title(config: ConfigDict) -> str:
    """A run in one line: encoder, data and what makes its method.

    Args:
      config: every field of `oass_jax/default_config.py`.
    """
    teacher = f"{config.teacher.mode} teacher, keypoint {config.keypoint.strategy}"
    said = {
        teacher: config.teacher.mode != "none",
        "class-specific instances": config.model.csi,
        "SSGRL's graph": config.model.graph,
        f"{config.regions.count} regions of MCAR": config.regions.count,
    }
    method = ", ".join(what for what, used in said.items() if used) or "supervised"
    return f"{config.model.encoder} on {config.data.dataset}, {method}"
