"""Seconds from the start of the training command to its first finished step.

python -m benchmarks.startup --repeats=3

With an empty cache of compiled programs, with the one that leaves, and without any, in turns. The
data set is the built-in one, prepared before.
"""

import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

from benchmarks import harness
from oass_jax.errors import UserError

CACHES = ("warm", "cold", "none")


def first_step(options: Namespace, data_dir: Path, cache: str, folder: Path) -> float:
    """Runs a step of the command.

    Args:
      options: the config and size.
      data_dir: of the prepared data set.
      cache: folder of compiled programs; '' for none.
      folder: where the workdir goes.

    Returns:
      Seconds until the first step was logged.

    Raises:
      UserError: with the last line that the command printed.
    """
    command = [sys.executable, "-m", "oass_jax.main", f"--config=configs/demo.py:{options.config}"]
    fields = {
        "data.data_dir": data_dir,
        "num_epochs": 1e-3,
        "log_every_steps": 1,
        "batch_size": options.batch_size,
        "augment.image_px": options.image_px,
        "model.encoder": options.encoder,
        "model.dtype": options.dtype,
        "eval.split": "val[:1]",
        "eval.batch_size": options.batch_size,
    }
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    metrics = folder / "metrics.jsonl"
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
    began = time.perf_counter()
    process = subprocess.Popen(
        [*command, f"--workdir={folder}"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not metrics.exists() or "train/loss" not in metrics.read_text():
        if process.poll():
            raise UserError(process.stderr.read().strip().splitlines()[-1])
        time.sleep(0.01)
    seconds = time.perf_counter() - began
    process.communicate()  # it evaluates, and fills the cache with that, too
    return seconds


def main() -> None:
    """Starts the command again and again."""
    parser = harness.parser(__doc__)
    parser.set_defaults(encoder="resnet_tiny", image_px=96, batch_size=32, repeats=3)
    parser.add_argument("--config", default="max")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        data_dir = root / "data"
        prepare = [sys.executable, "-m", "oass_jax.prepare", "--dataset=digit_scenes"]
        subprocess.run([*prepare, f"--data_dir={data_dir}"], check=True, stdout=subprocess.DEVNULL)

        def start(cache: str) -> float:
            folder = Path(tempfile.mkdtemp(dir=root))
            path = {"none": "", "warm": root / "cache", "cold": folder / "cache"}[cache]
            return first_step(options, data_dir, str(path), folder / "run")

        runs = {cache: lambda cache=cache: start(cache) for cache in CACHES}
        times = harness.in_turns(runs, options.repeats)
    rows = [
        [cache, harness.spread(seconds), harness.spread(seconds / times["none"])]
        for cache, seconds in times.items()
    ]
    seconds = {cache: values.tolist() for cache, values in times.items()}
    header = ["cache of programs", "first step, s", "relative to none"]
    harness.report("startup", options, header, rows, seconds=seconds)


if __name__ == "__main__":
    harness.run(main)
