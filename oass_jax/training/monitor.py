"""What happens between two steps: metrics fetched late, losses checked, rates measured, signals."""

import collections
import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from oass_jax.training.metric_writer import Console, MetricWriter


class DivergedError(Exception):
    """A loss or gradient was not finite; one sentence that says where and what to try."""


class StoppedError(Exception):
    """The run was asked to stop and has saved its state.

    Attributes:
      status: exit status a shell expects of a process that ended by this signal.
    """

    def __init__(self, step: int, number: int):
        super().__init__(f"stopped and saved at step {step}; the same command continues from there")
        self.status = 128 + number


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
        """
        self._writer, self._console = writer, console
        self._total_steps, self._steps_per_epoch = total_steps, steps_per_epoch
        self._batch_size, self._log_every, self._rates = batch_size, log_every, rates
        self._pending: collections.deque[tuple[int, dict]] = collections.deque()
        self._logged_step = start
        self._restart_interval()

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
          DivergedError: a fetched loss or gradient norm is not finite.
        """
        self._pending.append((step, metrics))
        self._fetch(but=1)

    def settle(self) -> None:
        """Waits for every step so far; afterwards its losses are known to be finite.

        Raises:
          DivergedError: one is not.
        """
        self._fetch(but=0)

    def _fetch(self, *, but: int) -> None:
        while len(self._pending) > but:
            step, metrics = self._pending.popleft()
            metrics = {name: float(x) for name, x in jax.device_get(metrics).items()}
            _require_finite(step, metrics)
            self._interval.append(metrics)
            if step % self._log_every == 0 or step == self._total_steps:
                self._log(step)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time spent inside, for evaluation and saving, out of the rates."""
        began = time.perf_counter()
        yield
        self._paused_s += time.perf_counter() - began

    def _log(self, step: int) -> None:
        elapsed = max(time.perf_counter() - self._began - self._paused_s, 1e-9)
        steps = step - self._logged_step
        names = self._interval[0]
        metrics = {f"train/{n}": float(np.mean([m[n] for m in self._interval])) for n in names}
        # The rate of the last step logged, which had seen one step less.
        metrics |= {f"train/{n}": float(rate(step - 1)) for n, rate in self._rates.items()}
        epoch = step / self._steps_per_epoch
        metrics |= {
            "train/epoch": epoch,
            "perf/images_per_sec": steps * self._batch_size / elapsed,
            "perf/input_wait": min(self._input_s / elapsed, 1.0),
        }
        self._writer.write(step, metrics)
        eta_s = (self._total_steps - step) * elapsed / steps
        self._console.progress(step, metrics, epoch=epoch, eta_s=eta_s)
        self._logged_step = step
        self._restart_interval()

    def _restart_interval(self) -> None:
        self._began = time.perf_counter()
        self._paused_s = self._input_s = 0.0
        self._interval: list[dict[str, float]] = []


def _require_finite(step: int, metrics: dict[str, float]) -> None:
    bad = [name for name, value in metrics.items() if not np.isfinite(value)]
    if bad:
        raise DivergedError(
            f"{bad[0]} was not finite at step {step}; the last checkpoint is from before and is "
            "good: try smaller learning rates or loss weights"
        )


class StopRequest:
    """Turns the first SIGTERM or SIGINT into a request to save and stop; a second stops at once.

    Only in runs of one process: several must agree on the step.

    Attributes:
      number: of the signal that was received, 0 without one.
    """

    _signals = (signal.SIGTERM, signal.SIGINT)

    def __enter__(self) -> "StopRequest":
        self.number = 0
        self._former = {}
        if jax.process_count() == 1:
            self._former = {number: signal.getsignal(number) for number in self._signals}
            for number in self._signals:
                signal.signal(number, self._request)
        return self

    def _request(self, number: int, frame: Any) -> None:
        del frame
        self.number = number
        signal.signal(number, self._former[number])

    def __exit__(self, *exc_info: Any) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
