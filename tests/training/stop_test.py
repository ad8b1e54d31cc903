"""Signals: the first asks to save and stop, a second stops at once."""

import os
import queue
import signal

import pytest

from oass_jax.errors import StoppedError
from oass_jax.training.stop import StopRequest


@pytest.fixture(params=[signal.SIGTERM, signal.SIGINT])
def received(request):
    """A signal, and how often its handler of before was called."""
    calls = []
    former = signal.signal(request.param, lambda number, frame: calls.append(number))
    yield request.param, calls
    signal.signal(request.param, former)


def test_the_first_signal_is_a_request_and_the_second_does_what_it_always_did(received):
    number, calls = received
    answers = queue.Queue()
    with StopRequest(answers.put, timeout_s=0.0) as stop:
        assert not stop.reached()
        signal.raise_signal(number)
        assert stop.reached()
        assert calls == []
        assert answers.get(timeout=600).startswith(f"{number.name}: saves after this step")
        signal.raise_signal(number)
        assert calls == [number]
    assert answers.empty()


def test_afterwards_signals_do_what_they_did_before(received):
    number, calls = received
    with StopRequest(print, timeout_s=0.0) as stop:
        pass
    signal.raise_signal(number)
    assert not stop.reached()
    assert calls == [number]


def test_a_stopped_run_has_the_status_of_a_temporary_failure():
    assert StoppedError(7).status == os.EX_TEMPFAIL
