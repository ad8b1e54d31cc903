"""Ends a process, of several, that makes no progress."""

import sys
import threading
from typing import Any

import jax

from oass_jax.errors import LostProcessError
from oass_jax.run import processes


class Watchdog:
    """Ends this process where nothing is heard of it for too long; does nothing in a run of one.

    A process that has ended is noticed by its heartbeat (`processes.HEARTBEAT_S`). One that is
    alive but hangs, on its disk or in a deadlock, is not, and all others wait in the collective
    that it does not come to.
    """

    def __init__(self, timeout_s: float):
        """Watches nothing yet.

        Args:
          timeout_s: seconds between two calls of `beat`; 0 for any number.
        """
        self._timeout_s = timeout_s
        self._beaten, self._closed = threading.Event(), False

    def __enter__(self) -> "Watchdog":
        if self._timeout_s and jax.process_count() > 1:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def beat(self) -> bool:
        """Progress was made. False, so that it may stand where it is asked whether to stop."""
        self._beaten.set()
        return False

    def __exit__(self, *exc_info: Any) -> None:
        self._closed = True
        self._beaten.set()

    def _watch(self) -> None:
        while self._beaten.wait(self._timeout_s):
            if self._closed:
                return
            self._beaten.clear()
        print(
            f"process {jax.process_index()} made no progress for {self._timeout_s:g} s: it, "
            "or one that it waits for, hangs; start all of them again, and set "
            "--config.distributed.timeout_s where a step takes longer",
            file=sys.stderr,
        )
        processes.leave(LostProcessError.status)
