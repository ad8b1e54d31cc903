"""Several processes of one run: joined, stopped, lost, and as many as there are the next time."""

import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.commands import (
    COMMAND,
    ROOT,
    complete_checkpoints,
    environment,
    leaves,
    losses,
    start_several,
    without_rates,
    words,
)

STEPS = 12
# Saved at 6 and 12; evaluated at 12, as every evaluation is compiled by every start.
LONGER = (
    "--config.num_epochs=4",
    "--config.eval.every_epochs=4",
    "--config.checkpoint.every_steps=6",
)
# `oass_jax.main`, of which a process sends a signal as it has done a step: to itself, or to the
# script that has started it. $SIGNALS is a file of process, step, signal and target, a line each;
# the first one is taken off as it is sent. It is noticed within a second or so, in which the
# process that has sent it makes a step at most.
SIGNALLED = """
import os, runpy, signal, time
from pathlib import Path
from oass_jax.training.monitor import Monitor

plan, add, sent = Path(os.environ["SIGNALS"]), Monitor.add, []

def add_and_signal(self, step, metrics):
    add(self, step, metrics)
    time.sleep(len(sent))
    line, _, rest = plan.read_text().partition("\\n")
    if line.split()[:2] == [os.environ["JAX_PROCESS_ID"], str(step)]:
        plan.write_text(rest)
        sent.append(line)
        target = os.getppid() if line.endswith("script") else os.getpid()
        os.kill(target, signal.Signals[line.split()[2]])

Monitor.add = add_and_signal
runpy.run_module("oass_jax.main", run_name="__main__")
"""


@pytest.fixture(scope="session")
def finished(digits, tmp_path_factory):
    """The folder of a run of one process with four devices, from start to end.

    It joins a run of one: without, its devices would add up in another order.
    """
    folder = tmp_path_factory.mktemp("finished")
    statuses, out = together(words(digits, folder, *LONGER), environment(4), number=1)
    assert statuses == [0], out
    return folder


def signals(folder, *lines):
    path = folder / "signals"
    path.write_text("".join(f"{line}\n" for line in lines))
    return {"SIGNALS": str(path)}


def together(given, env, *, number, command=COMMAND):
    """Statuses and outputs of the processes of a run."""
    all_of_them = start_several(given, env, extra=((),) * number, command=command)
    out = [process.communicate()[0] for process in all_of_them]
    return [process.returncode for process in all_of_them], out


def require_the_same_end(folder, finished):
    assert leaves(folder, STEPS) == leaves(finished, STEPS)
    assert without_rates(folder) == without_rates(finished)


@pytest.fixture
def local(machine):
    """Popen of `launch/local.sh` with processes of SIGNALLED; its `stderr` reads what they say."""
    stderr = machine.root / "stderr"  # a pipe would be full before it is read
    machine.python_in_place('exec "$REAL_PYTHON" -c "$SIGNALLED" "${@:3}"')
    machine.env |= {"PYTHONPATH": str(ROOT), "SIGNALLED": SIGNALLED}

    def popen(*given, devices=2, **variables):
        command = ["bash", "launch/local.sh", *given]
        env = environment(devices, **(machine.env | variables))
        with stderr.open("w") as file:
            return subprocess.Popen(command, cwd=machine.root, env=env, stderr=file)

    popen.stderr = stderr.read_text
    return popen


def test_two_processes_and_one_end_like_one_undisturbed(local, finished, digits, tmp_path):
    """Of four devices in all: stopped, lost and stopped, bit for bit the same."""
    folder = tmp_path / "run"
    given = words(digits, folder, *LONGER)

    def continue_with(number, *plan):
        variables = signals(tmp_path, *plan)
        status = local("-n", str(number), *given, devices=4 // number, **variables).wait()
        err = local.stderr()
        assert "Traceback" not in err
        return status, err

    # One is asked to stop, and all do, at a step they agree on; the script knows nothing of it.
    env = environment(2, **signals(tmp_path, "1 2 SIGINT process"))
    command = [sys.executable, "-c", SIGNALLED]
    statuses, out = together(given, env, number=2, command=command)
    assert statuses == [75] * 2, out
    (step,) = {int(re.search(r"stopped and saved at step (\d+)", text)[1]) for text in out}
    assert 2 <= step <= 5
    assert complete_checkpoints(folder)[-1] == step
    assert not [text for text in out[1:] if re.search(r"^step ", text, re.MULTILINE)]

    # The first one is lost; then the script is asked to stop.
    status, err = continue_with(2, "0 7 SIGKILL process", "1 9 SIGTERM script")
    assert status == 75, err
    assert "process 0 ended with status 137; all start again" in err
    assert complete_checkpoints(folder)[-1] in (9, 10, 11, 12)

    status, err = continue_with(1)
    assert status == 0, err
    require_the_same_end(folder, finished)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("--config.seed=3", "config.seed is 0 in process 0 and 3 in process 1"),
        ("--workdir={elsewhere}", "is not shared: process 1 does not see"),
    ],
)
def test_processes_that_would_do_different_things_are_refused(digits, tmp_path, other, message):
    other = other.format(elsewhere=tmp_path / "elsewhere")
    given = words(digits, tmp_path / "run", *LONGER)
    both = start_several(given, environment(1), extra=((), (other,)))
    out = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [2, 2], out
    for text in out:
        assert message in text
        assert "Traceback" not in text
    assert not complete_checkpoints(tmp_path / "run")


# Campaign: losses at any moment, start-up included.

NUM_LOSSES = 20
# Steps slow enough to hit one.
SLOWLY = SIGNALLED.replace("add(self", "import time; time.sleep(0.05); add(self", 1)


def processes_of(parent):
    """Those of the run that the script has started and that have not ended."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                state, ppid = file.read().rpartition(")")[2].split()[:2]
            with open(f"/proc/{name}/cmdline") as file:
                is_run = "--distributed" in file.read()
        except OSError:
            continue
        if int(ppid) == parent and state != "Z" and is_run:
            found.append(int(name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 4])
def test_twenty_losses_change_nothing(local, digits, tmp_path, number):
    rng = random.Random(number)
    longer = ["--config.num_epochs=80", "--config.eval.every_epochs=20"]
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "run"
    statuses, out = together(words(digits, undisturbed, *longer), environment(4), number=1)
    assert statuses == [0], out

    def lose_one():
        """Of a run that has made up to 9 steps since its last checkpoint, or is starting."""
        while len(victims := processes_of(process.pid)) < number:
            assert process.poll() is None
            time.sleep(0.05)
        first = max(complete_checkpoints(folder), default=0)
        how = signal.SIGKILL  # for one that has not joined the others wait minutes
        if num_steps := rng.randrange(10):
            while not (logged := losses(folder)) or logged[-1][0] < first + num_steps:
                assert process.poll() is None
                time.sleep(0.02)
            how = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP])
        else:
            time.sleep(rng.uniform(0, 10))
        os.kill(rng.choice(victims), how)
        while {*processes_of(process.pid)} & {*victims}:
            time.sleep(0.1)

    variables = {"SIGNALLED": SLOWLY} | signals(tmp_path)
    given = ("-n", str(number), "--restarts", str(NUM_LOSSES), *words(digits, folder, *longer))
    process = local(*given, devices=4 // number, **variables)
    for _ in range(NUM_LOSSES):
        lose_one()
    assert process.wait() == 0, local.stderr()
    assert local.stderr().count("all start again") == NUM_LOSSES
    last = max(complete_checkpoints(undisturbed))
    assert leaves(folder, last) == leaves(undisturbed, last)
    assert without_rates(folder) == without_rates(undisturbed)


@pytest.mark.slow
def test_a_process_that_hangs_is_ended(digits, tmp_path):
    """Its heartbeat goes on, as that of a deadlock does; the others wait for it."""
    hangs = SIGNALLED.replace("os.kill(target, signal.Signals[line.split()[2]])", "HANG")
    command = [sys.executable, "-c", hangs.replace("HANG", "__import__('time').sleep(3600)")]
    given = words(digits, tmp_path / "run", "--config.distributed.timeout_s=30")
    env = environment(1, **signals(tmp_path, "1 3 SIGKILL process"))
    statuses, out = together(given, env, number=2, command=command)
    assert statuses == [75, 75], out
    assert any("made no progress for 30 s" in text for text in out)
