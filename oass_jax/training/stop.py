"""Signals that ask a training to save and stop."""

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import multihost_utils

from oass_jax.run.watchdog import Watchdog


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
