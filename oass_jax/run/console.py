"""What a person sees of a run: one live display on a terminal, plain lines in a pipe."""

import contextlib
import math
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import rich.console
import rich.progress
import rich.text

Batch = TypeVar("Batch")


class Console:
    """Lines and progress on stdout, from process 0."""

    def __init__(self, *, quiet: bool = False):
        """Prints nothing yet.

        Args:
          quiet: print nothing, as every process of a run but the first.
        """
        self._console = rich.console.Console(quiet=quiet, highlight=False, emoji=False)
        self._bar = None
        if self._console.is_terminal:
            columns = (
                rich.progress.MofNCompleteColumn(),
                rich.progress.BarColumn(12),
                "{task.description}",
                _Clock(),
            )
            self._bar = rich.progress.Progress(*columns, console=self._console)

    def begin(self, *, step: int, total_steps: int) -> None:
        """Shows how far a training is.

        Args:
          step: steps done so far.
          total_steps: steps of the whole run.
        """
        self._total_steps = total_steps
        if self._bar:
            self._task = self._add_task("starting", total=total_steps, completed=step)

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
            f"waiting {100 * metrics['perf/input_wait']:.0f}%  eta {duration(eta_s)}"
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

    @contextlib.contextmanager
    def clock(self, activity: str) -> Iterator[None]:
        """Shows that something of unknown length goes on, and says afterwards how long it took.

        Args:
          activity: such as 'compiling the step'.
        """
        began = time.perf_counter()
        task = self._add_task(activity, total=None) if self._bar else None
        if not self._bar:
            self.say(activity)
        yield
        if self._bar:
            self._bar.remove_task(task)
        self.say(f"{activity} took {time.perf_counter() - began:.1f} s")

    def track(
        self, batches: Iterable[Batch], *, activity: str, num_images: int, batch_size: int
    ) -> Iterator[Batch]:
        """Hands batches on and shows on a terminal how many images have been.

        Args:
          batches: the last one may be padded.
          activity: such as 'evaluating'.
          num_images: in all batches.
          batch_size: of all processes.
        """
        if not self._bar:
            yield from batches
            return
        task = self._add_task(activity, total=num_images)
        for number, batch in enumerate(batches):
            self._bar.update(task, completed=min(number * batch_size, num_images))
            yield batch
        self._bar.remove_task(task)

    def say(self, text: str) -> None:
        """Prints lines above the display, or plainly."""
        # Not wrapped: a line in a pipe is a line.
        self._console.print(text, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar:
            self._bar.stop()

    def _add_task(self, *args: Any, **kwargs: Any) -> rich.progress.TaskID:
        # Not before there is something to show: it hides the cursor until it is closed.
        self._bar.start()
        return self._bar.add_task(*args, **kwargs)


class _Clock(rich.progress.ProgressColumn):
    """Seconds that an activity of unknown length has taken."""

    def render(self, task: rich.progress.Task) -> rich.text.Text:
        return rich.text.Text("" if task.total is not None else f"{task.elapsed or 0:.0f} s")


def duration(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds."""
    hours, minutes = divmod(int(seconds) // 60, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{int(seconds) % 60:02d}s"
