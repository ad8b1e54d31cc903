"""Every command of the README and of what it leads to, typed into the shell that it sets up.

Programs that stand in for Python and pip skip what would take minutes or a network: they create
the environment, accept what is installed, and train by writing the config to the workdir.
All else is real: the scripts, and every command line up to where it is understood. A command that
nobody has given a way to run fails.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# In the order of reading; those of `docs/results.md` are about runs of hours.
DOCUMENTS = ("README.md", "docs/own_images.md", "docs/voc.md", "docs/runs.md", "docs/code.md")
SCRIPTS = ("bash", "hf", "oass", "pip", "python", "source")

# The interpreter: before the environment is active it is called python3.
PYTHON = """#!/usr/bin/env bash
case "$1 ${2:-}" in
  "-c "*"sys.prefix"*) echo "$STAND_IN/installed"; mkdir -p "$STAND_IN/installed" ;;
  "-c "*) "$REAL_PYTHON" "$@" ;;
  "-m venv")
    "$REAL_PYTHON" -m venv --without-pip "$3"
    ln -sf "$STAND_IN"/{python,pip} "$3/bin" ;;
  "-m pip" | "-m ruff" | "-m pytest" | "-m tests.browser."*) ;;
  "-m oass_jax.main") "$REAL_PYTHON" -c "$MAIN" "${@:3}" ;;
  "-m oass_jax.app" | "-m oass_jax.figure" | "-m oass_jax.predict")
    "$REAL_PYTHON" -c "$PARSE" "${@:2}" ;;
  "-m oass_jax.sweep") "$REAL_PYTHON" -c "$SWEEP" "${@:3}" ;;
  "-m oass_jax.report") "$REAL_PYTHON" -c "$REPORT" "${@:3}" ;;
  "-m oass_jax.prepare" | "-m oass_jax.table") "$REAL_PYTHON" "$@" ;;
  *) echo "tests/readme_test.py has no way to run: python $*" >&2; exit 64 ;;
esac
"""
PIP = """#!/usr/bin/env bash
case "$*" in
  "install jax"* | "install gradio"*) ;;
  "install .") ln -s "$STAND_IN/oass" "$VIRTUAL_ENV/bin" ;;
  *) echo "tests/readme_test.py has no way to run: pip $*" >&2; exit 64 ;;
esac
"""
HF = """#!/usr/bin/env bash
case "$*" in
  "download timm/resnet"*".tv_in1k model.safetensors") ;;
  *) echo "tests/readme_test.py has no way to run: hf $*" >&2; exit 64 ;;
esac
"""
OASS = """#!/usr/bin/env bash
case "$1" in
  --help) "$REAL_PYTHON" -m oass_jax "$@" ;;
  -*) python -m oass_jax.main "$@" ;;
  *) python -m "oass_jax.$1" "${@:2}" ;;
esac
"""
MAIN = """
import json, sys
from oass_jax import main
args = main.parse(sys.argv[1:])
if args.mode == "train":
    args.workdir.mkdir(parents=True, exist_ok=True)
    (args.workdir / "config.json").write_text(json.dumps(args.config.to_dict()))
"""

# The runs of MAIN have no checkpoint to predict with.
PARSE = """
import importlib, sys
importlib.import_module(sys.argv[1]).parse(sys.argv[2:])
"""

# The runs of MAIN were not evaluated either.
REPORT = """
import sys
from pathlib import Path
from oass_jax import report
report.write_report = lambda *_, **__: Path(sys.executable)
report.main(sys.argv[1:])
"""

# Its runs are those of MAIN, which never finish, so that there is nothing to make tables of.
SWEEP = """
import os, sys
from oass_jax import sweep
sweep.PROGRAM = ("-c", os.environ["MAIN"])
sweep._print_tables = lambda *_: True
sys.exit(sweep.main([*sys.argv[1:], "--seeds", "0"]))
"""


def blocks(text):
    """The indented blocks, those lines joined that end in a backslash; no fenced ones."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for block in re.findall(r"(?:^    .*\n)+", text, re.MULTILINE):
        yield re.sub(r"^    ", "", block, flags=re.MULTILINE).replace("\\\n", " ").splitlines()


def commands(text):
    """The commands in the blocks; a block that begins with a folder is a listing of files."""
    for block in blocks(text):
        if not re.match(r"\S+/(\s|$)", block[0]):
            yield from block
    # None with flags hides in a sentence.
    assert not re.findall(
        rf"`(?:{'|'.join(SCRIPTS)}) [^`]*(?:--|[.]sh)[^`]*`", text.replace("\n", " ")
    )


def typed(command):
    """A command without the marks of what is optional: [WORKDIR], [--flag=VALUE]."""
    return re.sub(r"\[(--[^\]]*)\]", r"\1", re.sub(r" \[[A-Z_]+\]", "", command))


@pytest.fixture
def checkout(tmp_path, voc_files, write_tar):
    """A copy of the checkout, with a config and archives where the README says `path/to`, `DIR`."""
    folder = tmp_path / "checkout"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("oass_jax", "configs", "launch"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("requirements.txt", "tests/requirements.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    own = folder / "path" / "to" / "own.py"
    own.parent.mkdir(parents=True)
    own.write_text((ROOT / "configs" / "cmax_csi.py").read_text())
    for name in ("labels.csv", "other.csv"):
        (folder / name).write_text("image,labels\nphoto.jpg,cat\n")
    (folder / "DIR").mkdir()
    write_tar(folder / "DIR" / "voc.tar", voc_files())
    return folder


@pytest.fixture
def env(tmp_path):
    stand_in = tmp_path / "stand_in"
    stand_in.mkdir()
    for name, text in {"python": PYTHON, "pip": PIP, "oass": OASS}.items():
        (stand_in / name).write_text(text)
        (stand_in / name).chmod(0o755)
    system = tmp_path / "system"
    system.mkdir()
    shutil.copy(stand_in / "python", system / "python3")
    (system / "python").write_text("#!/bin/sh\necho 'No module named absl' >&2; exit 1\n")
    (system / "hf").write_text(HF)
    for name in ("python", "hf"):
        (system / name).chmod(0o755)
    return {
        "PATH": f"{system}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "STAND_IN": str(stand_in),
        "REAL_PYTHON": sys.executable,
        "MAIN": MAIN,
        "PARSE": PARSE,
        "REPORT": REPORT,
        "SWEEP": SWEEP,
    }


def shell(words, checkout, env):
    """Runs commands in one shell, up to the first that fails."""
    script = "\n".join(["set -eu", *(f"echo {i} >&3\n{word}" for i, word in enumerate(words))])
    # The number of the command is kept apart from what the commands print.
    command = ["bash", "-c", f"exec 3> {checkout}/number\n{script}"]
    done = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True)
    last = int((checkout / "number").read_text().splitlines()[-1])
    return done, words[last]


def test_the_commands_of_the_readme_work_as_typed(checkout, env):
    texts = [(ROOT / name).read_text() for name in DOCUMENTS]
    words = [typed(command) for text in texts for command in commands(text)]
    assert len(words) >= 20
    assert {word.split()[0] for word in words} <= set(SCRIPTS)
    done, last = shell(words, checkout, env)
    assert done.returncode == 0, f"{last}\n{done.stderr}"
    assert (checkout / ".venv" / "bin" / "activate").is_file()
    assert (checkout / "runs" / "demo" / "config.json").is_file()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("python -m oass_jax.unknown --x", "has no way to run"),
        ("oass unknown", "has no way to run"),
        ("python -m benchmarks.step", "has no way to run"),
        ("pip install something", "has no way to run"),
        ("hf download something", "has no way to run"),
        ("bash launch/unknown.sh", "No such file"),
        ("python -m oass_jax.main --config=maxx --workdir=w", "did you mean max?"),
    ],
)
def test_a_command_without_a_way_to_run_fails(checkout, env, word, message):
    words = ["python3 -m venv .venv", "source .venv/bin/activate", "pip install .", word]
    done, last = shell(words, checkout, env)
    assert done.returncode != 0
    assert last == word
    assert message in done.stderr


def test_commands_are_found_with_what_may_be_left_out():
    text = (
        "x\n\n    bash a.sh [DIR]  # why\n    b --c \\\n        --d [--e=DIR]\n\nx\n\n    runs/\n"
    )
    found = [" ".join(typed(command).split()) for command in commands(text)]
    assert found == ["bash a.sh # why", "b --c --d --e=DIR"]


# The scripts themselves.


def demo(checkout, env, *words, cwd=None, script="launch/demo.sh"):
    command = ["bash", str(script), *words]
    return subprocess.run(command, cwd=cwd or checkout, env=env, capture_output=True, text=True)


def test_the_demo_tells_how_it_is_called(checkout, env):
    done = demo(checkout, env, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "bash launch/demo.sh [WORKDIR] [--config.FIELD=VALUE ...]" in done.stdout
    assert "set -euo" not in done.stdout
    assert not (checkout / ".venv").exists()


def test_the_demo_takes_flags_without_a_workdir(checkout, env):
    done = demo(checkout, env, "--config.num_epochs=2")
    assert done.returncode == 0, done.stderr
    assert '"num_epochs": 2.0' in (checkout / "runs" / "demo" / "config.json").read_text()


def test_the_demo_may_be_called_from_another_folder(checkout, env, tmp_path):
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    (elsewhere / "python").symlink_to(env["STAND_IN"] + "/python")
    env |= {"PYTHON": "./python"}
    done = demo(checkout, env, "my run", cwd=elsewhere, script=checkout / "launch" / "demo.sh")
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "my run" / "config.json").is_file()
    assert not (checkout / ".venv").exists()


def test_an_old_interpreter_is_reported(checkout, env, tmp_path):
    old = tmp_path / "old" / "bin" / "python"
    old.parent.mkdir(parents=True)
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = demo(checkout, env | {"VIRTUAL_ENV": str(tmp_path / "old")})
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "is not Python 3.11 to 3.14" in done.stderr
