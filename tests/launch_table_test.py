"""launch/table.sh with a program in place of Python that notes how it was called."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "launch" / "table.sh"
# FAILING and WAITING name workdirs as ROW/seedN.
STUB = """#!/usr/bin/env bash
if [ "$1" = -c ]; then echo "$STUB_DIR"; exit; fi
[ "$2" != pip ] || exit 0
echo "$*" >> "$STUB_DIR/calls"
if [ "$2" = oass_jax.table ]; then echo "the tables"; exit "${TABLE_STATUS:-0}"; fi
for word; do case "$word" in --workdir=*) workdir="${word#*=}" ;; esac; done
mkdir -p "$workdir"
case "$workdir" in *"${FAILING:-nothing}") echo broken >&2; exit 3 ;; esac
case "$workdir" in *"${WAITING:-nothing}")
  # As a run: a signal asks it to save, the same one again ends it at once.
  save() {
    trap - "$1"
    touch "$STUB_DIR/saving"
    sleep "$SAVING_S" &
    wait $!
    echo saved >&2
    exit 143
  }
  trap 'save INT' INT
  trap 'save TERM' TERM
  echo $$ > "$STUB_DIR/waiting"
  while true; do sleep 0.05; done ;;
esac
"""


@pytest.fixture
def stub(tmp_path):
    path = tmp_path / "stub" / "python"
    path.parent.mkdir()
    path.write_text(STUB)
    path.chmod(0o755)
    return path


def environment(stub, variables):
    plain = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return plain | {"PYTHON": str(stub), "STUB_DIR": str(stub.parent)} | variables


def launch(stub, *words, **variables):
    """Runs the script in the folder above the stub; its result, and the calls it made."""
    (stub.parent / "calls").unlink(missing_ok=True)
    done = subprocess.run(
        ["bash", str(SCRIPT), *words],
        cwd=stub.parents[1],
        env=environment(stub, variables),
        capture_output=True,
        text=True,
        timeout=60,
    )
    calls = stub.parent / "calls"
    return done, calls.read_text().splitlines() if calls.exists() else []


def trained(calls):
    """`ROW/seedN` of each call of the program."""
    return [
        "/".join(word.split("/")[-2:])
        for call in calls
        for word in call.split()
        if word.startswith("--workdir=")
    ]


def test_every_row_and_seed_and_then_the_tables(stub):
    done, calls = launch(stub, "runs", "--config.num_epochs=1", ROWS="puzzlecam max", SEEDS="0 3")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "the tables\n"
    runs = stub.parents[1] / "runs"
    assert calls == [
        *(
            f"-m oass_jax.main --config=configs/{row}.py --config.num_epochs=1 "
            f"--config.seed={seed} --workdir={runs}/{row}/seed{seed}"
            for row in ("puzzlecam", "max")
            for seed in (0, 3)
        ),
        f"-m oass_jax.table {runs} --out={runs}",
    ]


def test_all_rows_and_three_seeds_where_nothing_is_said(stub):
    _, calls = launch(stub, "runs")
    assert len(trained(calls)) == 16 * 3
    assert trained(calls)[:4] == [*(f"ssgrl_r101/seed{i}" for i in range(3)), "ssgrl/seed0"]


def test_the_demo_is_one_page_for_all_rows(stub):
    _, calls = launch(stub, "runs", DEMO="1", SEEDS="0")
    assert "--config=configs/demo.py:ssgrl " in calls[0]
    assert len(trained(calls)) == 14
    assert not any("r101" in call for call in calls)


def test_a_row_may_have_seeds_of_its_own(stub):
    _, calls = launch(stub, "runs", ROWS="max cmax", SEEDS="0", SEEDS_max="1 2")
    assert trained(calls) == ["max/seed1", "max/seed2", "cmax/seed0"]


def test_what_is_finished_is_skipped_until_the_flags_change(stub):
    launch(stub, "runs", ROWS="max cmax", SEEDS="0")
    done, calls = launch(stub, "runs", ROWS="max cmax ctopk", SEEDS="0")
    assert trained(calls) == ["ctopk/seed0"]
    assert "max, seed 0: finished" in done.stderr
    _, calls = launch(stub, "runs", "--config.num_epochs=9", ROWS="max", SEEDS="0")
    assert trained(calls) == ["max/seed0"]


def test_a_failure_stops_nothing_and_is_told_at_the_end(stub):
    done, calls = launch(stub, "runs", ROWS="max cmax", SEEDS="0 1", FAILING="max/seed0")
    assert trained(calls)[-1] == "cmax/seed1"
    assert done.returncode == 1
    assert done.stdout == "the tables\n"
    assert done.stderr.endswith("error: failed:\n  max, seed 0\n  cmax, seed 0\n")
    done, calls = launch(stub, "runs", ROWS="max cmax", SEEDS="0 1")
    assert done.returncode == 0
    assert trained(calls) == ["max/seed0", "cmax/seed0"]


def test_the_test_split_is_evaluated_after_training(stub):
    _, calls = launch(stub, "runs", ROWS="max", SEEDS="0", TEST="voc/2007")
    assert "--mode=eval" not in calls[0]
    assert calls[1].endswith("--mode=eval --config.eval.dataset=voc/2007 --config.eval.split=test")


def test_tables_that_fail_are_told(stub):
    done, _ = launch(stub, "runs", ROWS="max", SEEDS="0", TABLE_STATUS="2")
    assert done.returncode == 1
    assert done.stderr.endswith("error: failed:\n  the tables\n")


@pytest.mark.parametrize("words", [[], ["--config.num_epochs=1"]])
def test_a_missing_folder_is_told(stub, words):
    done, calls = launch(stub, *words)
    assert (done.returncode, calls) == (2, [])
    assert done.stderr.startswith("error: name a folder for the runs")


def launch_waiting(stub, saving_s):
    """The script with its first run under way; that takes `saving_s` seconds to end."""
    variables = {"ROWS": "max cmax", "SEEDS": "0", "WAITING": "max/seed0", "SAVING_S": saving_s}
    process = subprocess.Popen(
        ["bash", str(SCRIPT), str(stub.parents[1] / "runs")],
        env=environment(stub, variables),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell may have started pytest with the signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(stub.parent / "waiting")
    return process


def wait_for(path):
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("receivers", ["script", "group", "everybody"])
def test_a_signal_saves_the_run_and_stops_everything(stub, number, receivers):
    process = launch_waiting(stub, saving_s="0.5")
    if receivers == "everybody" and number == signal.SIGTERM:  # as Slurm does
        os.kill(int((stub.parent / "waiting").read_text()), number)
        wait_for(stub.parent / "saving")
    (os.kill if receivers == "script" else os.killpg)(process.pid, number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert stderr.endswith("saved\nstopped; the same command continues\n")
    assert len((stub.parent / "calls").read_text().splitlines()) == 1
    _, calls = launch(stub, "runs", ROWS="max cmax", SEEDS="0")
    assert trained(calls) == ["max/seed0", "cmax/seed0"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_wait_for_saving(stub, number):
    process = launch_waiting(stub, saving_s="20")
    process.send_signal(number)
    wait_for(stub.parent / "saving")
    process.send_signal(number)
    assert process.wait(timeout=10) == 128 + number
    os.killpg(int((stub.parent / "waiting").read_text()), signal.SIGKILL)  # its sleep
    assert "saved" not in process.stderr.read()
