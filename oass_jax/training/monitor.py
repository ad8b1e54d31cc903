"""What happens between two steps: metrics fetched late, losses checked, rates measured, signals."""

import collections
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from oass_jax.errors import DivergedError
from oass_jax.run.console import Console
from oass_jax.run.watchdog import Watchdog
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


class StopRequest:
    """Turns the first SIGTERM or SIGINT into a request to save and stop; a second stops at once.

    The request is answered in a line at once, even while XLA compiles. Several processes are asked
    by a signal to any of them, and agree on where to stop (JAX's preemption service); one of them
    that does not ask whether to, again and again, hangs and is ended.
    """

    _signals = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, say: Callable[[str], None], *, timeout_s: float):
        """Changes nothing yet.

        Args:
          say: prints a line; called from another thread.
          timeout_s: longest time between two calls of `reached`, see `Watchdog`.
        """
        self._say, self._watchdog = say, Watchdog(timeout_s)

    def __enter__(self) -> "StopRequest":
        self._watchdog.__enter__()
        self._number = self._asked = 0
        self._previous: dict[int, Any] = {}
        if jax.process_count() > 1:
            # JAX has taken SIGTERM, and tells all processes.
            self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, _terminate)
            return self
        # Python runs a handler when C++ returns, which compiling takes minutes to do; the
        # number of the signal is in this pipe at once.
        self._reader, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        self._previous_fd = signal.set_wakeup_fd(self._pipe, warn_on_full_buffer=False)
        threading.Thread(target=self._answer, daemon=True).start()
        self._previous = {number: signal.getsignal(number) for number in self._signals}
        for number in self._signals:
            signal.signal(number, self._request)
        return self

    def reached(self) -> bool:
        """Whether to save and stop here.

        All processes of a run have to ask, after each step and before each batch of an evaluation:
        the same question is answered alike everywhere.
        """
        self._watchdog.beat()
        if jax.process_count() == 1:
            return self._number != 0
        self._asked += 1
        return multihost_utils.reached_preemption_sync_point(self._asked)

    def _answer(self) -> None:
        with open(self._reader, "rb", buffering=0) as pipe:
            answered = False
            while received := pipe.read(1):
                if received[0] in self._signals and not answered:
                    name = signal.Signals(received[0]).name
                    self._say(f"{name}: saves after this step, then stops; once more stops now")
                    answered = True

    def _request(self, number: int, frame: Any) -> None:
        del frame
        self._number = number
        signal.signal(number, self._previous[number])

    def __exit__(self, *exc_info: Any) -> None:
        self._watchdog.__exit__(*exc_info)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if jax.process_count() == 1:
            signal.set_wakeup_fd(self._previous_fd)
            os.close(self._pipe)


def _terminate(number: int, frame: Any) -> None:
    del number, frame
    os.kill(os.getpid(), signal.SIGTERM)
