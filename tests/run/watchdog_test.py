import threading

import jax
import pytest

from oass_jax.run import processes
from oass_jax.run.watchdog import Watchdog
from oass_jax.training.stop import StopRequest


@pytest.fixture
def left(monkeypatch):
    """Statuses this process would have ended with, as one of two."""
    statuses, happened = [], threading.Event()

    def leave(status):
        statuses.append(status)
        happened.set()

    monkeypatch.setattr(processes, "leave", leave)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    return statuses, happened


def watching():
    return [thread for thread in threading.enumerate() if "_watch" in thread.name]


def test_a_process_without_progress_is_ended(left, capsys):
    statuses, happened = left
    with Watchdog(0.01):
        assert happened.wait(60)
    assert statuses == [75]
    (line,) = capsys.readouterr().err.splitlines()
    assert "process 0 made no progress for 0.01 s" in line


def test_progress_counts_from_the_last_beat(left):
    """Each beat, as told by an event that is set before it is waited for, gives the whole limit."""
    statuses, _ = left
    watchdog = Watchdog(60)
    event, waits = watchdog._beaten, []

    class Event:
        def wait(self, timeout_s):
            waits.append(timeout_s)
            if len(waits) < 3:
                assert watchdog.beat() is False
            return event.is_set() and len(waits) < 9

        set, clear = event.set, event.clear

    watchdog._beaten = Event()
    watchdog._watch()
    assert waits == [60] * 3
    assert statuses == [75]


def test_a_run_that_ends_is_watched_no_longer(left):
    before = watching()
    with Watchdog(60):
        (thread,) = set(watching()) - set(before)
    thread.join(60)
    assert not thread.is_alive()
    assert left[0] == []


@pytest.mark.parametrize(("timeout_s", "count"), [(0.0, 2), (60.0, 1)])
def test_nobody_watches_a_run_of_one_or_without_a_limit(monkeypatch, timeout_s, count):
    monkeypatch.setattr(jax, "process_count", lambda: count)
    with Watchdog(timeout_s):
        assert watching() == []


def test_to_ask_whether_to_stop_is_progress(monkeypatch):
    beats = []
    monkeypatch.setattr(Watchdog, "beat", lambda self: beats.append(self) or False)
    with StopRequest(print, timeout_s=60.0) as stop:
        assert not stop.reached()
        assert not stop.reached()
    assert len(beats) == 2
