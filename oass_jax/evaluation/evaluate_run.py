"""Evaluates a checkpoint of a run: its predictions (`--mode=eval`), its class maps (`cam`)."""

from pathlib import Path

from ml_collections import ConfigDict

from oass_jax.data import pipeline
from oass_jax.errors import UserError
from oass_jax.evaluation import cam_files, score_files
from oass_jax.evaluation.cam_evaluator import CamEvaluator
from oass_jax.evaluation.evaluator import Evaluator, open_split
from oass_jax.evaluation.pictures import Pictures
from oass_jax.run import model_card, processes, workdir
from oass_jax.run.console import Console
from oass_jax.run.restore import Run, open_run
from oass_jax.run.watchdog import Watchdog
from oass_jax.run.workdir import Workdir


def evaluate_checkpoint(config: ConfigDict, folder: Workdir) -> None:
    """Evaluates a checkpoint on `config.eval`, writes `eval/DATASET_SPLIT/` and prints the result.

    Args:
      config: the config of the run; fields of `eval` may differ.
      folder: the workdir.

    Raises:
      UserError: there is no such run or checkpoint, or the data set has other classes.
    """
    run = _open(config, folder)
    console = Console(quiet=not folder.writes)
    try:
        split = _open_split(config, folder, config.eval.split, run)
        summary = folder.evaluation(split.name, config.eval.split) / workdir.SUMMARY
        step_before = _evaluated_step(summary)
        evaluator = Evaluator(config, folder, split, run.network, run.mesh, console)
        for note in split.notes:
            console.say(note)
        with Watchdog(config.distributed.timeout_s) as watchdog:
            evaluation, _ = evaluator(
                run.model, run.step, checkpoint=config.eval.checkpoint, stops_fn=watchdog.beat
            )
    finally:
        console.close()
    with processes.together():
        # Beside this a training may have gone on.
        if (step := _evaluated_step(summary)) > max(step_before, run.step):
            raise UserError(
                f"step {step} was evaluated meanwhile: {summary.parent} stays as it is, and step "
                f"{run.step} is not written"
            )
    score_files.write(folder, evaluation)
    pictures = Pictures(config, folder, run.network, run.mesh, split)
    pictures(run.model, evaluation)
    model_card.write(folder)
    if folder.writes:
        target = folder.evaluation(evaluation.dataset, evaluation.split)
        print(score_files.result_table(evaluation.summary, target), flush=True)


def evaluate_class_maps(config: ConfigDict, folder: Workdir) -> None:
    """Measures the class maps of a checkpoint, writes `cams/DATASET_SPLIT/` and prints the result.

    Args:
      config: the config of the run; fields of `eval` and `cam` may differ.
      folder: the workdir.

    Raises:
      UserError: as `evaluate_checkpoint`; or the split has no masks, or a damaged one.
    """
    run = _open(config, folder)
    split = _open_split(config, folder, config.cam.split, run)
    evaluator = CamEvaluator(config, folder, split, run.network, run.mesh)
    with Watchdog(config.distributed.timeout_s) as watchdog:
        summary = evaluator(run.model, run.step, stops_fn=watchdog.beat)
    model_card.write(folder)
    if folder.writes:
        target = folder.cams(summary["dataset"], summary["split"])
        print(cam_files.result_table(summary, target), flush=True)


def _evaluated_step(path: Path) -> int:
    """The step of a summary; 0 where there is none."""
    return workdir.read_summary(path).get("step", 0)


def _open(config: ConfigDict, folder: Workdir) -> Run:
    run = open_run(folder, config=config)
    if folder.writes:
        print(f"restored the checkpoint of step {run.step}", flush=True)
    return run


def _open_split(config: ConfigDict, folder: Workdir, name: str, run: Run) -> pipeline.Split:
    """The same images in every process."""
    with processes.together():
        split = open_split(config, folder, name, run.class_names)
    processes.agree(pipeline.evaluated(split))
    return split
