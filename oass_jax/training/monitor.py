"""What happens between two steps: metrics fetched late, losses checked, rates measured."""

import collections
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from oass_jax.errors import DivergedError
from oass_jax.run.console import Console
from oass_jax.training.metric_writer import MetricWriter

MAX_SKIPPED = 3  # steps in a row that are not finite before the run stops
_CHANCE_EPOCHS = 2.0  # the first one may be all warm-up
_CHANCE = 0.98  # of the loss of predicting frequencies; what is above has learned nothing


class Monitor:
    """Follows a run without holding it up.

    A step's metrics are fetched when the next step has been dispatched, so the device never waits
    for the host to read numbers. Waiting for input is the time the host stood in `next(batches)`;
    the device may still have been busy, so it is an upper bound of what input costs.
    """

    def __init__(
        self,
        writer: MetricWriter,
        console: Console,
        *,
        start: int,
        total_steps: int,
        steps_per_epoch: float,
        batch_size: int,
        log_every: int,
        rates: dict[str, Callable[[int], jax.typing.ArrayLike]],
        images_of: Callable[[int], list[str]],
        chance_loss_fn: Callable[[], float],
        unlogged: dict[str, Any] | None = None,
    ):
        """Starts the clock.

        Args:
          writer: where metrics are written.
          console: where a person sees them.
          start: steps done so far.
          total_steps: steps of the whole run.
          steps_per_epoch: need not be whole.
          batch_size: over all devices.
          log_every: steps between two lines.
          rates: name -> schedule, logged with the losses.
          images_of: step -> file names of its images, asked for where a run stops.
          chance_loss_fn: gives `loss_cls` of a network that predicts each class by its frequency.
          unlogged: from the attribute of that name, saved at `start`.
        """
        self._writer, self._console = writer, console
        self._images_of, self._chance_loss_fn = images_of, chance_loss_fn
        self._total_steps, self._steps_per_epoch = total_steps, steps_per_epoch
        self._batch_size, self._log_every, self._rates = batch_size, log_every, rates
        self._pending: collections.deque[tuple[int, dict]] = collections.deque()
        self._timed_step = start
        self._unlogged = unlogged or _nothing_unlogged()
        self._restart_clock()

    @property
    def unlogged(self) -> dict[str, Any]:
        """What the next line will be made of, JSON-able; saved with the state after `settle`."""
        return self._unlogged | {"sums": dict(self._unlogged["sums"])}

    def wait_for(self, batches: Iterator[Any]) -> Any:
        """Takes the next batch and counts the time it took."""
        began = time.perf_counter()
        batch = next(batches)
        self._input_s += time.perf_counter() - began
        return batch

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of a step that was dispatched, and fetches those of the one before.

        Args:
          step: steps done.
          metrics: scalars, still on the device.

        Raises:
          DivergedError: the fetched step is the last of too many in a row that were not finite.
        """
        self._pending.append((step, metrics))
        self._fetch(but=1)

    def settle(self) -> None:
        """Waits for every step so far and fetches its metrics.

        Raises:
          DivergedError: as `add`.
        """
        self._fetch(but=0)

    def _fetch(self, *, but: int) -> None:
        while len(self._pending) > but:
            step, metrics = self._pending.popleft()
            metrics = {name: float(x) for name, x in jax.device_get(metrics).items()}
            self._count(step, metrics)
            if step % self._log_every == 0 or step == self._total_steps:
                self._log(step)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time spent inside, for evaluation and saving, out of the rates."""
        began = time.perf_counter()
        yield
        self._paused_s += time.perf_counter() - began

    def _count(self, step: int, metrics: dict[str, float]) -> None:
        seen = self._unlogged
        if not metrics.pop("skipped", 0.0):
            seen["skipped_in_a_row"] = 0
            seen["steps"] += 1
            for name, value in metrics.items():
                seen["sums"][name] = seen["sums"].get(name, 0.0) + value
            return
        seen["skipped"] += 1
        seen["skipped_in_a_row"] += 1
        bad = ", ".join(name for name, value in metrics.items() if not np.isfinite(value))
        what = f"not finite: {bad or 'running statistics'}"
        self._console.say(f"step {step} was skipped, {what}")
        if seen["skipped_in_a_row"] == MAX_SKIPPED:
            names = self._images_of(step)
            listed = ", ".join(names[:8]) + f" and {len(names) - 8} more" * (len(names) > 8)
            raise DivergedError(
                f"{MAX_SKIPPED} steps in a row were skipped, the last was {step} ({what}) with the "
                f"images {listed}: try smaller learning rates or loss weights, or look at these "
                "images"
            )

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """Shows the time spent inside, and leaves it out of the rates."""
        with self._console.clock("compiling the training step"):
            yield
        self._restart_clock()

    def _log(self, step: int) -> None:
        elapsed = max(time.perf_counter() - self._began - self._paused_s, 1e-9)
        steps, seen = step - self._timed_step, self._unlogged
        metrics = {f"train/{name}": total / seen["steps"] for name, total in seen["sums"].items()}
        # The rate of the last step logged, which had seen one step less.
        metrics |= {f"train/{n}": float(rate(step - 1)) for n, rate in self._rates.items()}
        epoch = step / self._steps_per_epoch
        metrics |= {
            "train/skipped_steps": float(seen["skipped"]),
            "train/epoch": epoch,
            "perf/images_per_sec": steps * self._batch_size / elapsed,
            "perf/input_wait": min(self._input_s / elapsed, 1.0),
        }
        self._writer.write(step, metrics)
        eta_s = (self._total_steps - step) * elapsed / steps
        self._console.progress(step, metrics, epoch=epoch, eta_s=eta_s)
        if epoch - self._log_every / self._steps_per_epoch < _CHANCE_EPOCHS <= epoch:
            self._warn_of_chance(metrics.get("train/loss_cls", 0.0))
        self._timed_step = step
        self._unlogged = _nothing_unlogged() | {"skipped_in_a_row": seen["skipped_in_a_row"]}
        self._restart_clock()

    def _warn_of_chance(self, loss_cls: float) -> None:
        """Warns, on the first line after two epochs, of a network that has learned nothing."""
        chance_loss = self._chance_loss_fn()
        if loss_cls > _CHANCE * chance_loss:
            self._console.say(
                f"warning: after two epochs loss_cls is {loss_cls:.4f}; predicting each class "
                f"by its frequency gives {chance_loss:.4f}: the learning rates may be too small or "
                "too large, or the labels those of other images"
            )

    def _restart_clock(self) -> None:
        self._began = time.perf_counter()
        self._paused_s = self._input_s = 0.0


def _nothing_unlogged() -> dict[str, Any]:
    return {"steps": 0, "sums": {}, "skipped": 0, "skipped_in_a_row": 0}
