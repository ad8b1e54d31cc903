import re

import pytest

from oass_jax.run.console import Console

METRICS = {
    "train/loss": 0.5,
    "train/learning_rate": 1e-3,
    "perf/images_per_sec": 100.0,
    "perf/input_wait": 0.25,
}


def use(console):
    console.begin(step=0, total_steps=4)
    with console.clock("compiling"):
        pass
    console.progress(2, METRICS, epoch=1.0, eta_s=3700)
    batches = console.track(iter("abc"), activity="evaluating", num_images=5, batch_size=2)
    assert list(batches) == ["a", "b", "c"]
    console.close()


def test_a_pipe_gets_plain_lines(capsys):
    use(Console())
    first, took, step = capsys.readouterr().out.splitlines()
    assert first == "compiling"
    assert re.fullmatch(r"compiling took \d+\.\d s", took)
    assert step == (
        "step 2/4  epoch 1.00  loss 0.5000  lr 1.00e-03  100.0 images/s  waiting 25%  eta 1h01m"
    )


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")


def test_a_terminal_shows_what_goes_on(terminal, capsys):
    use(Console())
    out = capsys.readouterr().out
    assert re.search(r"compiling took \d+\.\d s\n", out)
    assert "step 2/4" not in out
    assert "\x1b[?25h" in out  # the cursor is back


def test_a_terminal_is_left_alone_until_there_is_something_to_show(terminal, capsys):
    Console().say("a line")
    assert capsys.readouterr().out == "a line\n"


def test_a_quiet_console_hands_batches_on(terminal, capsys):
    use(Console(quiet=True))
    assert capsys.readouterr().out == ""
