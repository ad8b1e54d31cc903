"""`--mode=dryrun`: a few steps of the real training in a folder that is removed, and their cost."""

import contextlib
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
from ml_collections import ConfigDict

from oass_jax.data import pipeline
from oass_jax.data.checksums import Checksums
from oass_jax.evaluation.evaluator import Evaluator
from oass_jax.run import build
from oass_jax.run.checkpoint import MODEL, OPTIMIZER, Checkpoints
from oass_jax.run.console import Console, duration
from oass_jax.run.workdir import Workdir
from oass_jax.training import start

_EVAL_BATCHES = 2


def dry_run(config: ConfigDict, folder: Workdir | None) -> None:
    """Makes two steps, an evaluation of a few batches and a checkpoint, and prints their cost.

    Args:
      config: every field.
      folder: where the run is to be, whose disk the checkpoint is written to; None for any. It is
        left as it is.

    Raises:
      UserError: as the training would.
    """
    near = folder.root.absolute().parent if folder else None
    with tempfile.TemporaryDirectory(dir=near if near and near.is_dir() else None) as root:
        for line in _measure(config, Workdir(Path(root))):
            print(line, flush=True)


def _measure(config: ConfigDict, folder: Workdir) -> list[str]:
    mesh, console = build.create_mesh(), Console()
    build.require_even(mesh, "batch_size", config.batch_size, num_parts=config.num_microbatches)
    parts = start.create_parts(config, folder, mesh, console)
    validation = parts.evaluator.split
    first = _first_batches(config, folder, validation)
    evaluator = Evaluator(config, folder, first, parts.network, mesh, console)
    checkpoints = Checkpoints(folder.checkpoints, keep_last=1)
    begun = start.restore_or_start(config, parts, mesh, checkpoints, {})
    state, notes = begun.state, begun.notes
    batches = start.train_batches(config, parts.split, 0, mesh, Checksums(parts.split))
    with (
        contextlib.closing(console),
        contextlib.closing(checkpoints),
        contextlib.closing(batches),
    ):
        with console.clock("compiling the training step"):
            state, _ = jax.block_until_ready(parts.train_fn(state, next(batches)))
        batch = next(batches)
        step_s, (state, _) = _timed(lambda: jax.block_until_ready(parts.train_fn(state, batch)))
        input_s = _input_seconds(config, batches)
        with console.clock("compiling the evaluation"):
            evaluator(state.model, 2)
        eval_s, _ = _timed(lambda: evaluator(state.model, 2))
        items = {MODEL: state.model, OPTIMIZER: state.optimizer}
        save_s, _ = _timed(lambda: _save(checkpoints, items))
    eval_s *= len(validation) / len(first)
    total, evaluations = parts.schedule.total_steps, len(parts.schedule.eval_steps)
    saves = max(evaluations, total // parts.schedule.save_every)
    run_s = total * max(step_s, input_s) + evaluations * eval_s + saves * save_s
    size_mb = sum(p.stat().st_size for p in folder.checkpoints.rglob("*") if p.is_file()) / 1e6
    kept = config.checkpoint.keep_last + 1
    waits = " (reading is slower than computing: store smaller images)" if input_s > step_s else ""
    device = mesh.devices.flat[0]
    return [
        f"{mesh.size} x {device.device_kind}",
        *dict.fromkeys((*notes, *parts.split.notes, *validation.notes)),
        *build.dtype_note(config, device),
        f"a step: {step_s:.3g} s; reading its {config.batch_size} images: {input_s:.3g} s{waits}",
        f"an evaluation: {duration(eval_s)} for {len(validation):,} images",
        f"a checkpoint: {save_s:.2g} s, {size_mb:,.0f} MB; {kept} are kept at most",
        f"peak memory: {_peak_memory(device)}",
        f"the run: {total:,} steps, {evaluations} evaluations: {duration(run_s)}, and compiling",
    ]


def _first_batches(config: ConfigDict, folder: Workdir, whole: pipeline.Split) -> pipeline.Split:
    """The images of the first batches of a split; all of one that is a slice already."""
    count, name = min(len(whole), _EVAL_BATCHES * config.eval.batch_size), config.eval.split
    if "[" in name:
        return whole
    part, names = f"{name}[:{count}]", whole.class_names
    return build.open_split(config, folder, config.eval.dataset, part, class_names=names)


def _timed(call: Callable) -> tuple[float, object]:
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def _input_seconds(config: ConfigDict, batches: object) -> float:
    """Seconds a batch takes to read, once those that were read ahead are used up."""
    count = 2 * max(4, build.read_options(config).num_threads)
    for _ in range(count):
        next(batches)
    seconds, _ = _timed(lambda: [next(batches) for _ in range(count)])
    return seconds / count


def _save(checkpoints: Checkpoints, items: dict) -> None:
    checkpoints.save(items, step=2, fingerprint={}, val_map=None)
    checkpoints.wait()


def _peak_memory(device: jax.Device) -> str:
    stats = device.memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return f"{stats['peak_bytes_in_use'] / 1e9:.1f} GB of the device"
    # Kilobytes, but bytes on a Mac.
    unit = 1 if sys.platform == "darwin" else 1e3
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f"{peak / 1e9:.1f} GB of this process"
