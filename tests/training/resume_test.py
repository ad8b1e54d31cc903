"""What needs processes of their own: killed, stopped, continued, started again."""

import json
import os
import re
import shlex
import shutil
import signal
import sys

import pytest

from oass_jax.run import workdir
from tests.commands import (
    COMMAND,
    call,
    complete_checkpoints,
    environment,
    leaves,
    losses,
    rows,
    run,
    without_rates,
    words,
)

STEPS = 12
# Saved at 4, 6, 8 and 12; evaluated at 6 and 12.
LONGER = ("--config.num_epochs=4", "--config.eval.every_epochs=2")
# `oass_jax.main` that sends itself a signal, the first word, where the second one says: when it has
# written the metrics of a step, or when it is about to give a file or folder its final name.
SIGNALLED = """
import os, runpy, signal, sys
from oass_jax.training.metric_writer import MetricWriter

number, moment, write = signal.Signals[sys.argv.pop(1)], sys.argv.pop(1), MetricWriter.write

def reached(name):
    if name == moment:
        os.kill(os.getpid(), number)

def write_and_reach(self, step, metrics):
    write(self, step, metrics)
    reached(f"step {step}")

def audit(event, args):
    if event == "os.rename":
        reached(f"naming {os.path.basename(os.fspath(args[1]))}")

MetricWriter.write = write_and_reach
sys.addaudithook(audit)
runpy.run_module("oass_jax.main", run_name="__main__")
"""
SENDS = [sys.executable, "-c", SIGNALLED]


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """The environment of a user of two devices whose cache folder was empty."""
    env = environment(2, XDG_CACHE_HOME=str(tmp_path_factory.mktemp("cache")))
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        env.pop(name, None)
    return env


def programs(home):
    """The training steps that were compiled, and when."""
    folder = os.path.join(home["XDG_CACHE_HOME"], "oass_jax")
    with os.scandir(folder) as files:
        return {
            file.name: file.stat().st_mtime_ns
            for file in files
            if re.fullmatch("jit_train_step.*-cache", file.name)
        }


@pytest.fixture(scope="session")
def finished(digits, home, tmp_path_factory):
    """The folder of a run from start to end, and the training steps it compiled."""
    folder = tmp_path_factory.mktemp("finished")
    done = run([*COMMAND, *words(digits, folder, *LONGER)], home)
    assert done.returncode == 0, done.stderr
    return folder, programs(home)


@pytest.fixture(scope="session")
def killed(finished, digits, home, tmp_path_factory):
    """The folder of a run that was killed three times and resumed to its end.

    Also the checkpoints that were complete after each kill, and what the last process printed.
    """
    folder = tmp_path_factory.mktemp("killed")
    given = words(digits, folder, *LONGER)
    complete = []
    # Between two checkpoints; with one on the disk but for its name; in an evaluation.
    for moment in ("step 5", "naming 8", "naming summary.json"):
        done = run([*SENDS, "SIGKILL", moment, *given], home)
        assert done.returncode == -signal.SIGKILL, done.stderr
        complete.append(complete_checkpoints(folder))
    done = run([*COMMAND, *given], home)
    assert done.returncode == 0, done.stderr
    return folder, complete, done.stdout


def test_killed_at_any_moment_and_resumed_it_ends_bit_for_bit(finished, killed):
    folder, _, _ = killed
    assert leaves(folder, STEPS) == leaves(finished[0], STEPS)
    # Every step is there once, with the same losses.
    assert [step for step, _ in losses(folder)] == list(range(1, STEPS + 1))
    assert without_rates(folder) == without_rates(finished[0])


def test_a_killed_run_continues_from_its_last_complete_checkpoint(killed):
    folder, complete, out = killed
    # What is saved in the background may or may not have been complete, but not more than one.
    assert complete[0] in ([], [4])
    assert complete[1][-1] == 6
    assert complete[2][-1] in (6, 8)
    starts = json.loads((folder / "env.json").read_text())["starts"]
    assert [s["step"] for s in starts] == [0, *(max(steps, default=0) for steps in complete)]
    assert [bool(s["end"]) for s in starts] == [False, False, False, True]
    assert f"resumed from the checkpoint of step {complete[2][-1]}\n" in out


def test_what_was_compiled_is_kept_in_the_users_cache_and_gives_the_same_bits(
    finished, killed, home
):
    folder, compiled = finished
    assert len(compiled) == 1
    assert programs(home) == compiled
    assert leaves(killed[0], STEPS) == leaves(folder, STEPS)


def test_the_command_is_kept_as_a_shell_takes_it(finished, digits):
    folder, _ = finished
    (summary,) = folder.glob("eval/*/summary.json")
    expected = [*COMMAND[1:], *words(digits, folder, *LONGER)]
    assert shlex.split(json.loads(summary.read_text())["command"])[1:] == expected
    (begun,) = json.loads((folder / "env.json").read_text())["starts"]
    assert shlex.split(begun["command"])[1:] == expected


def test_eval_on_another_split_and_number_of_devices(finished, digits, tmp_path):
    """And in another process than the one that trained."""
    folder = shutil.copytree(finished[0], tmp_path / "run")
    given = words(digits, folder, *LONGER, "--mode=eval", "--config.eval.split=val[48:88]")
    done = call(given, devices=4)
    assert done.returncode == 0, done.stderr
    assert f"restored the checkpoint of step {STEPS}" in done.stdout
    path = folder / "eval/digit_scenes_val[48:88]/summary.json"
    summary = json.loads(path.read_text())
    assert summary["num_images"] == 40
    best = call([*given, "--config.eval.checkpoint=best", "--config.eval.weights=ema"], devices=4)
    assert best.returncode == 0, best.stderr
    summary = json.loads(path.read_text())
    assert (summary["checkpoint"], summary["weights"]) == ("best", "ema")
    assert summary["command"] == workdir.command()
    scores = {r["step"]: r["val/map"] for r in rows(folder) if "val/map" in r}
    assert summary["step"] == max(scores, key=lambda step: (scores[step], step))


def test_sigterm_saves_and_the_same_command_continues(finished, digits, home, tmp_path):
    given = words(digits, tmp_path, *LONGER)
    done = run([*SENDS, "SIGTERM", "step 3", *given], home)
    assert done.returncode == 75, done.stderr
    step = int(re.search(r"stopped and saved at step (\d+)", done.stdout)[1])
    assert step in (3, 4)
    assert complete_checkpoints(tmp_path) == [step]
    assert [s for s, _ in losses(tmp_path)] == list(range(1, step + 1))
    done = run([*COMMAND, *given], home)
    assert done.returncode == 0, done.stderr
    assert f"resumed from the checkpoint of step {step}\n" in done.stdout
    assert leaves(tmp_path, STEPS) == leaves(finished[0], STEPS)
    assert without_rates(tmp_path) == without_rates(finished[0])
