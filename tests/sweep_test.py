"""The sweep with something else in place of training, that writes what a run would."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oass_jax import config_file, sweep
from oass_jax.figures import paper

ROOT = Path(__file__).parents[1]
END = "2026-01-01T00:00:00+0000"
TEST = ["--mode=eval", "--config.eval.dataset=voc/2007", "--config.eval.split=test"]
# As a run: a signal asks it to save, the same one again ends it at once. It writes down the signals
# it receives, and has saved when the test says so.
WAITING_RUN = """
import os, pathlib, signal, sys, time

workdir = next(word.partition("=")[2] for word in sys.argv if word.startswith("--workdir="))
folder = pathlib.Path(workdir).parents[2]
ignored = [n.name for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) == signal.SIG_IGN]
received = []

def save(number, frame):
    signal.signal(number, signal.SIG_DFL)
    received.append(signal.Signals(number).name)
    with (folder / "received").open("a") as file:
        print(received[-1], file=file)

signal.signal(signal.SIGINT, save)
signal.signal(signal.SIGTERM, save)
(folder / "pid").write_text(str(os.getpid()))
with (folder / "started").open("a") as file:
    print(workdir, *ignored, file=file)
while not received or not (folder / "may_end").exists():
    time.sleep(0.02)
print("saved", file=sys.stderr)
sys.exit(143)
"""


def option(command, name):
    return next(word.partition("=")[2] for word in command if word.startswith(f"--{name}="))


def place(command):
    """`CONFIG/seedN`."""
    return "/".join(option(command, "workdir").split("/")[-2:])


class Runs:
    """In place of processes: notes the commands, and leaves what a run leaves.

    Attributes:
      commands: so far, without Python.
      failing: `CONFIG/seedN` whose commands fail.
    """

    def __init__(self):
        self.commands, self.failing = [], ()

    def run(self, command):
        self.commands.append(command[1:])
        if place(command) in self.failing:
            return 3
        folder = Path(option(command, "workdir"))
        if "--mode=eval" in command:
            return self._evaluate(folder, "voc-2007_test")
        folder.mkdir(parents=True, exist_ok=True)
        config = config_file.load(option(command, "config")).to_dict()
        config["seed"] = int(option(command, "config.seed"))
        (folder / "config.json").write_text(json.dumps(config))
        start = {"end": END, "command": shlex.join(["/other/python", *command[1:]])}
        (folder / "env.json").write_text(json.dumps({"starts": [start]}))
        return self._evaluate(folder, "voc-2012_val")

    def _evaluate(self, folder, evaluation):
        summary = {"map": 90.0, "map_voc": 90.0, "num_images": 1449, "step": 1}
        (folder / "eval" / evaluation).mkdir(parents=True, exist_ok=True)
        (folder / "eval" / evaluation / "summary.json").write_text(json.dumps(summary))
        return 0

    def places(self):
        """`CONFIG/seedN` of the commands since the last time it was asked."""
        commands, self.commands = self.commands, []
        return [place(command) for command in commands]


@pytest.fixture
def made(monkeypatch):
    runs = Runs()
    monkeypatch.setattr(sweep._Child, "run", lambda self, command: runs.run(command))
    monkeypatch.chdir(ROOT)
    return runs


def status_of(*words):
    with pytest.raises(SystemExit) as raised:
        sweep.main([*map(str, words)])
    return raised.value.code


def test_every_config_and_seed_and_then_the_tables(made, tmp_path, capsys):
    words = ["--configs", "puzzlecam", "max", "--seeds", "0", "3", "--config.num_epochs=1"]
    sweep.main([str(tmp_path / "runs"), *words])
    assert made.commands == [
        [
            *("-m", "oass_jax.main", f"--config={name}", "--config.num_epochs=1"),
            *(f"--config.seed={seed}", f"--workdir={tmp_path}/runs/{name}/seed{seed}"),
        ]
        for name in ("puzzlecam", "max")
        for seed in (0, 3)
    ]
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        *("== puzzlecam, seed 0", "== puzzlecam, seed 3", "== max, seed 0", "== max, seed 3")
    ]
    assert "Ours (Max) w/o CSI" in printed.out
    assert "90.00 ± 0.00" in printed.out
    assert (tmp_path / "runs/tables.md").read_text(encoding="utf-8") == printed.out


def test_all_rows_and_three_seeds_by_default(made, tmp_path):
    sweep.main([str(tmp_path)])
    assert made.places() == [f"{row}/seed{seed}" for row in paper.ROWS for seed in range(3)]


def test_the_demo_is_every_method_once(made, tmp_path):
    sweep.main([str(tmp_path), "--demo", "--seeds", "0"])
    assert "--config=demo:ssgrl" in made.commands[0]
    rows = [row for row in paper.ROWS if row not in ("ssgrl_r101", "puzzlecam_r101")]
    assert made.places() == [f"demo-{row}/seed0" for row in rows]


def test_names_and_paths_and_arguments_have_folders_of_their_own(made, tmp_path):
    own = tmp_path / "own config.py"
    own.write_text(
        "from oass_jax import default_config\n"
        "def get_config(argument=''):\n    return default_config.get_config()\n"
    )
    words = ["--configs", "max", "demo:max", str(own), f"{own}:a/b", "--seeds", "1"]
    sweep.main([str(tmp_path / "runs"), *words])
    assert [option(command, "config") for command in made.commands] == [
        *("max", "demo:max", str(own), f"{own}:a/b")
    ]
    assert made.places() == [
        *("max/seed1", "demo-max/seed1", "own-config/seed1", "own-config-a-b/seed1")
    ]


def test_a_config_may_have_seeds_of_its_own(made, tmp_path, capsys):
    sweep.main([str(tmp_path), "--configs", "max", "--seeds", "1", "2"])
    capsys.readouterr()
    sweep.main([str(tmp_path), "--configs", "max", "cmax", "--seeds", "1"])
    assert made.places() == ["max/seed1", "max/seed2", "cmax/seed1"]
    text = capsys.readouterr().out
    assert "| 2     | 90.00 ± 0.00" in text
    assert "| 1     | 90.00 ± \N{EN DASH}" in text


def test_what_is_finished_is_skipped_until_the_flags_change(made, tmp_path, capsys):
    sweep.main([str(tmp_path), "--configs", "max", "cmax", "--seeds", "0"])
    made.places()
    sweep.main([str(tmp_path), "--configs", "max", "cmax", "ctopk", "--seeds", "0"])
    assert made.places() == ["ctopk/seed0"]
    assert "== max, seed 0: finished\n" in capsys.readouterr().err
    words = [str(tmp_path), "--configs", "max", "--seeds", "0"]
    sweep.main([*words, "--config.num_epochs=9"])
    assert made.places() == ["max/seed0"]
    # What is there now is of other flags.
    sweep.main(words)
    assert made.places() == ["max/seed0"]


@pytest.mark.parametrize("env", ['{"starts": [{"end": null, "command": "x"}]}', "{", None])
def test_a_run_without_an_end_is_not_finished(made, tmp_path, env):
    words = [str(tmp_path), "--configs", "max", "--seeds", "0"]
    sweep.main(words)
    path = tmp_path / "max/seed0/env.json"
    if env is None:
        path.unlink()
    else:
        path.write_text(env)
    made.places()
    sweep.main(words)
    assert made.places() == ["max/seed0"]


def test_a_failure_stops_nothing_and_is_reported_at_the_end(made, tmp_path, capsys):
    made.failing = ("max/seed0", "cmax/seed0")
    words = [str(tmp_path), "--configs", "max", "cmax", "--seeds", "0", "1", "--test=voc/2007"]
    assert sweep.main(words) == 1
    places = ["max/seed0", "max/seed1", "max/seed1", "cmax/seed0", "cmax/seed1", "cmax/seed1"]
    assert made.places() == places
    printed = capsys.readouterr()
    assert printed.err.endswith("error: failed:\n  max, seed 0\n  cmax, seed 0\n")
    assert "**Table 3.**" in printed.out
    made.failing = ()
    assert sweep.main(words) == 0
    assert made.places() == ["max/seed0"] * 2 + ["cmax/seed0"] * 2


def test_the_test_split_is_evaluated_after_training(made, tmp_path, capsys):
    words = [str(tmp_path), "--configs", "ctopk_w", "--seeds", "0", "--config.num_epochs=1"]
    sweep.main(words)
    made.places()
    # Training is done, so it is not repeated.
    sweep.main([*words, "--test", "voc/2007"])
    workdir = tmp_path / "ctopk_w/seed0"
    assert made.commands == [["-m", "oass_jax.main", f"--workdir={workdir}", *TEST]]
    assert "`voc-2007_test`, 1,449 images." in capsys.readouterr().out
    made.places()
    sweep.main([*words, "--test", "voc/2007"])
    assert made.places() == []
    # Earlier weights than those of the training.
    os.utime(workdir / "eval/voc-2007_test/summary.json", (0, 0))
    sweep.main([*words, "--test", "voc/2007"])
    assert made.places() == ["ctopk_w/seed0"]
    sweep.main([str(tmp_path), "--configs", "ctopk_w", "--seeds", "0", "--test", "voc/2007"])
    assert made.places() == ["ctopk_w/seed0", "ctopk_w/seed0"]


def test_tables_that_fail_are_reported(made, tmp_path, capsys):
    made.failing = ("max/seed0",)
    assert sweep.main([str(tmp_path), "--configs", "max", "--seeds", "0"]) == 1
    errors = capsys.readouterr().err
    assert "holds no run" in errors
    assert errors.endswith("error: failed:\n  max, seed 0\n  the tables\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: RUNS_DIR"),
        (["--config.num_epochs=1"], "required: RUNS_DIR"),
        (["README.md"], "README.md is a file"),
        (["{}", "--configs", "maxx"], "maxx is not a config: did you mean max?"),
        (["{}", "--configs", "demo:maxx"], "maxx is not a method: did you mean max?"),
        (["{}", "--configs", "from_json"], "the config from_json needs an argument"),
        (["{}", "--configs", "configs/mx.py"], "configs/mx.py is not a config: did you mean"),
        (["{}", "--configs", "max", "configs/max.py"], "would have the same folder max"),
        (["{}", "--configs", "max", "--demo"], "not allowed with argument"),
        (["{}", "--seeds", "one"], "invalid int value: 'one'"),
        (["{}", "--test", "voc/2077"], "invalid choice: 'voc/2077'"),
        (["{}", "--config.seed=3"], "--seeds 0 1 2"),
        (["{}", "--config.num_epoch=3"], "did you mean num_epochs?"),
        (["{}", "--config.num_epochs", "3"], "3 is not a flag"),
        (["{}", "--config=configs/max.py"], "did you mean --configs?"),
    ],
)
def test_an_error_is_one_line_and_exit_status_2(made, tmp_path, capsys, words, message):
    assert status_of(*(word.replace("{}", str(tmp_path)) for word in words)) == 2
    printed = capsys.readouterr()
    assert (made.commands, printed.out) == ([], "")
    assert len(printed.err.splitlines()) == 1
    assert printed.err.startswith("error: ")
    assert message in printed.err


def test_it_does_without_jax():
    code = "import sys, oass_jax.sweep; print([m for m in ('jax', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_signals_are_as_before_afterwards(made, tmp_path):
    before = [signal.getsignal(number) for number in sweep.FORWARDED]
    sweep.main([str(tmp_path), "--configs", "max", "--seeds", "0"])
    assert [signal.getsignal(number) for number in sweep.FORWARDED] == before


@pytest.fixture
def start(tmp_path):
    """A function that starts a sweep of two runs whose first one is under way."""
    program = tmp_path / "program.py"
    program.write_text(WAITING_RUN)
    words = [str(tmp_path / "runs"), "--configs", "max", "cmax", "--seeds", "0"]
    code = (
        "import sys; from oass_jax import sweep; "
        f"sweep.PROGRAM = [{str(program)!r}]; sys.exit(sweep.main({words}))"
    )
    processes = []

    def run(*ignored):
        def set_signals():
            # A shell may have started pytest with a signal ignored.
            for number in sweep.FORWARDED:
                signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

        command = [sys.executable, "-c", code]
        options = {"start_new_session": True, "preexec_fn": set_signals}
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, **options)
        processes.append(process)
        wait_for_lines(tmp_path / "started", 1)
        return process

    yield run
    (tmp_path / "may_end").touch()
    for process in processes:
        process.kill()
        process.wait()


def wait_for_lines(path, number):
    deadline = time.monotonic() + 600
    while len(lines := path.read_text().splitlines() if path.exists() else []) < number:
        assert time.monotonic() < deadline, f"{path}: {lines}"
        time.sleep(0.02)
    return lines


def end_of(process):
    _, stderr = process.communicate(timeout=600)
    return process.returncode, stderr.splitlines()


@pytest.mark.parametrize("number", sweep.FORWARDED)
@pytest.mark.parametrize("receivers", ["program", "group"])
def test_a_signal_saves_the_run_and_stops_everything(start, tmp_path, number, receivers):
    process = start()
    (os.kill if receivers == "program" else os.killpg)(process.pid, number)
    assert wait_for_lines(tmp_path / "received", 1) == [sweep.FORWARDED[number].name]
    assert process.poll() is None
    (tmp_path / "may_end").touch()
    assert end_of(process) == (
        75,
        ["== max, seed 0", "saved", "stopped; the same command continues"],
    )
    assert len(wait_for_lines(tmp_path / "started", 1)) == 1


def test_a_run_that_was_sent_the_signal_too_saves(start, tmp_path):
    """As under Slurm, which sends it to everybody."""
    process = start()
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    wait_for_lines(tmp_path / "received", 1)
    process.terminate()
    assert wait_for_lines(tmp_path / "received", 2) == ["SIGTERM", "SIGINT"]
    (tmp_path / "may_end").touch()
    assert end_of(process)[0] == 75


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_wait_for_saving(start, tmp_path, first, second):
    process = start()
    process.send_signal(first)
    wait_for_lines(tmp_path / "received", 1)
    process.send_signal(second)
    status, lines = end_of(process)
    assert status == 75
    assert "saved" not in lines


def test_what_is_ignored_stays_so_but_not_for_the_run(start, tmp_path):
    """As in the background of a script, and under nohup."""
    process = start(signal.SIGHUP, signal.SIGINT)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    process.terminate()
    assert wait_for_lines(tmp_path / "received", 1) == ["SIGINT"]
    assert wait_for_lines(tmp_path / "started", 1) == [f"{tmp_path}/runs/max/seed0"]
    (tmp_path / "may_end").touch()
    assert end_of(process)[0] == 75


def test_a_program_that_fails_is_reported(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("import sys; sys.exit('error: broken')")
    words = [str(tmp_path / "runs"), "--configs", "max", "--seeds", "0", "1"]
    code = (
        "import sys; from oass_jax import sweep; "
        f"sweep.PROGRAM = [{str(program)!r}]; sys.exit(sweep.main({words}))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[:4] == ["== max, seed 0", "error: broken", "== max, seed 1", "error: broken"]
    assert lines[-4:] == ["error: failed:", "  max, seed 0", "  max, seed 1", "  the tables"]
