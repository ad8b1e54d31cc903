"""Where the numbers of a run go: metrics.jsonl, TensorBoard events and the console."""

import json
import logging
import math
from pathlib import Path

import rich.console
import rich.progress
import tensorboardX

from oass_jax.run.workdir import Workdir

logger = logging.getLogger(__name__)


class MetricWriter:
    """Appends metrics to `metrics.jsonl` and to the events in `tb/`, from process 0 of a run."""

    def __init__(self, folder: Workdir, *, step: int):
        """Opens the files and cuts what was written after the step that is resumed.

        Args:
          folder: the workdir.
          step: the restored step; 0 for a new run.
        """
        self._writes = folder.writes
        if not self._writes:
            return
        folder.write_text(folder.metrics, "".join(_lines_until(folder.metrics, step)))
        self._jsonl = folder.metrics.open("a", encoding="utf-8")
        if not folder.events.is_dir() and (folder.events.exists() or folder.events.is_symlink()):
            aside = folder.events.with_name(folder.events.name + ".invalid")
            logger.warning("%s is no folder: it is now %s", folder.events, aside)
            folder.events.rename(aside)
        self._events = tensorboardX.SummaryWriter(
            str(folder.events), purge_step=step + 1 if step else None, write_to_disk=True
        )

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Writes one line; a value that is not finite becomes null, as JSON has no word for it.

        Args:
          step: steps done.
          metrics: names such as `train/loss` or `val/map`.
        """
        if not self._writes:
            return
        finite = {name: x if math.isfinite(x) else None for name, x in metrics.items()}
        self._jsonl.write(json.dumps({"step": step} | finite) + "\n")
        self._jsonl.flush()
        for name, value in metrics.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._writes:
            self._jsonl.close()
            self._events.close()


def _lines_until(path: Path, step: int) -> list[str]:
    """The lines of steps up to `step`; one that a kill cut short, or damaged, is dropped."""
    kept = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            logger.warning("dropped an unreadable line of %s", path)
    return kept


class Console:
    """Progress for a person: one bar on a terminal, plain lines in a pipe, from process 0."""

    def __init__(self, *, step: int, total_steps: int, quiet: bool):
        """Starts the bar.

        Args:
          step: steps done so far.
          total_steps: steps of the whole run.
          quiet: print nothing, as every process of a run but the first.
        """
        self._total_steps = total_steps
        self._console = rich.console.Console(quiet=quiet, highlight=False)
        self._bar = None
        if self._console.is_terminal:
            columns = (
                "{task.completed}/{task.total}",
                rich.progress.BarColumn(12),
                "{task.description}",
            )
            self._bar = rich.progress.Progress(*columns, console=self._console)
            self._task = self._bar.add_task("starting", total=total_steps, completed=step)
            self._bar.start()

    def progress(self, step: int, metrics: dict[str, float], *, epoch: float, eta_s: float) -> None:
        """Shows the state of the training.

        Args:
          step: steps done.
          metrics: the losses and rates as written to `metrics.jsonl`.
          epoch: epochs done.
          eta_s: seconds until the last step.
        """
        rate = (
            f"{metrics['perf/images_per_sec']:.1f} images/s  "
            f"waiting {100 * metrics['perf/input_wait']:.0f}%  eta {_duration(eta_s)}"
        )
        if self._bar:  # in 80 columns
            loss = metrics.get("train/loss", math.nan)
            text = f"epoch {epoch:.1f}  loss {loss:.3f}  {rate}"
            self._bar.update(self._task, completed=step, description=text)
            return
        losses = "  ".join(
            f"{name} {metrics[f'train/{name}']:.4f}"
            for name in ("loss", "loss_cls", "loss_pcl", "loss_re")
            if f"train/{name}" in metrics
        )
        self.say(
            f"step {step}/{self._total_steps}  epoch {epoch:.2f}  {losses}  "
            f"lr {metrics['train/learning_rate']:.2e}  {rate}"
        )

    def say(self, text: str) -> None:
        """Prints lines above the bar, or plainly."""
        # Not wrapped: a line in a pipe is a line.
        self._console.print(text, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar:
            self._bar.stop()


def _duration(seconds: float) -> str:
    hours, minutes = divmod(int(seconds) // 60, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{int(seconds) % 60:02d}s"
