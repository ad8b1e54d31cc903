"""Commands as a user runs them, in this process or in one of their own."""

import contextlib
import io
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from tensorboardX.proto.event_pb2 import Event

from benchmarks import harness
from oass_jax import main
from oass_jax.data import pipeline
from oass_jax.data.sources import digit_scenes
from oass_jax.evaluation import score_files, scores
from oass_jax.run import build
from oass_jax.run.checkpoint import MODEL, OPTIMIZER, Checkpoints
from oass_jax.run.state import create_state
from oass_jax.run.workdir import Workdir

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "oass_jax.main"]


class Done(NamedTuple):
    """How a command ended in this process; named as `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


def call(words, *, devices=1, command=main.main):
    """Runs a command in this process, on the first of its virtual devices."""
    return _to_its_end(lambda: command([str(word) for word in words]), devices)


def call_benchmark(module, *words):
    """Runs a benchmark in this process, on one device."""
    with mock.patch.object(sys, "argv", [module.__name__, *map(str, words)]):
        return _to_its_end(lambda: harness.run(module.main), 1)


def _to_its_end(command, devices):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), mesh_of(devices):
        try:
            status = command() or 0
        except SystemExit as end:
            status = end.code
    return Done(status, out.getvalue(), err.getvalue())


def mesh_of(devices):
    """A context in which a run sees so many devices."""
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    return mock.patch.object(build, "create_mesh", return_value=mesh)


def environment(devices, **variables):
    """That of a process with so many virtual devices."""
    flags = os.environ.get("XLA_FLAGS", "")
    flags = f"{flags} --xla_force_host_platform_device_count={devices}".strip()
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags} | variables


def run(words, env):
    """Runs any command in a process of its own, to its end."""
    return subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)


def help_of(module):
    """What `python -m module --help` prints, and the names of all that it imported for that."""
    code = f"""
import runpy, sys
sys.argv = [{module!r}, "--help"]
try:
    runpy.run_module({module!r}, run_name="__main__")
finally:
    print(*sys.modules, file=sys.stderr)
"""
    done = run([sys.executable, "-c", code], os.environ)
    return done.stdout, done.stderr.split()


def start(words, env):
    """Starts any command in a process of its own."""
    return subprocess.Popen(
        words, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def start_several(words, env, *, extra=((), ()), command=COMMAND):
    """Starts the processes of one run, each with words of its own after those of all."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    return [
        start(
            [*command, "--distributed", *words, *own],
            env
            | {
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": str(len(extra)),
                "JAX_PROCESS_ID": str(number),
            },
        )
        for number, own in enumerate(extra)
    ]


def prepare_digits(folder):
    """Prepares a few of the scenes: those that the splits of `words` name, and 48 more."""
    with mock.patch.dict(digit_scenes._NUM_SCENES, {"train": 48, "val": 96}):
        pipeline.open_split("digit_scenes", "val", pipeline.Location(data_dir=folder))
    return folder


def words(data_dir, folder, *changes, config="demo"):
    """Six steps of the tiny network on the scenes, evaluated after three and at the end."""
    return [
        f"--config={config}",
        f"--workdir={folder}",
        f"--config.data.data_dir={data_dir}",
        "--config.data.split=train[:48]",
        "--config.eval.split=val[:48]",
        "--config.batch_size=16",
        "--config.num_epochs=2",
        "--config.augment.image_px=32",
        "--config.augment.long_side_px=(32, 48)",
        "--config.eval.image_px=32",
        "--config.eval.batch_size=16",
        "--config.eval.every_epochs=1",
        "--config.eval.num_pictures=0",
        "--config.checkpoint.every_steps=4",
        "--config.log_every_steps=1",
        *changes,
    ]


def finish(command):
    """Leaves what a training leaves, without its steps, which take long to compile; evaluates it.

    Its teacher is another network than its student.
    """
    args = main.parse(command)
    config, folder = args.config, Workdir(args.workdir)
    split = build.open_split(config, None, config.data.dataset, config.data.split)
    network = build.create_network(config, len(split.class_names))
    variables = build.init_variables(network, 0)
    rng = jax.random.PRNGKey(0)
    state = create_state(variables, tx=optax.identity(), rng=rng, teacher=config.teacher.mode)
    state = state.replace(teacher=jax.tree.map(lambda x: 1.1 * x, state.teacher))
    folder.write_start(
        step=0, config=config.to_dict(), class_names=split.class_names, devices=[], num_processes=1
    )
    checkpoints = Checkpoints(folder.checkpoints, keep_last=1)
    items = {MODEL: state.model, OPTIMIZER: state.optimizer}
    checkpoints.save(items, step=6, fingerprint={}, val_map=50.0)
    checkpoints.close()
    done = call([f"--workdir={folder.root}", "--mode=eval"])
    assert done.returncode == 0, done.stderr
    return folder.root


def recomputed_summary(path):
    """The metrics of `summary.json`, from `scores.npz` alone."""
    found = scores.read(path)
    return score_files.summarize(
        found.class_name,
        found.prediction,
        found.label,
        threshold=found.threshold,
        thresholds_of=found.thresholds_of,
    )


def rows(folder):
    """The lines of metrics.jsonl, without one that is being written."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def events(folder):
    """What TensorBoard reads: records of length, checksum, event, checksum."""
    for path in sorted((folder / "tb").glob("events.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def losses(folder):
    """Step and loss of every logged step, in the order of the file."""
    return [(row["step"], row["train/loss"]) for row in rows(folder) if "train/loss" in row]


def without_rates(folder):
    """The lines without what is measured in seconds."""
    return [
        {name: value for name, value in row.items() if not name.startswith("perf/")}
        for row in rows(folder)
    ]


def complete_checkpoints(folder):
    """Their steps, ascending."""
    return sorted(int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdigit())


def leaves(folder, step):
    """Item -> checksum of every array of a checkpoint, as they were saved."""
    record = folder / "checkpoints" / str(step) / "record" / "metadata"
    return json.loads(record.read_text())["leaves"]
