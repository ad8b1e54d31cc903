"""The folder of a run: every file of it, named once, and how files are written.

Nothing here imports jax, so whoever only reads a run starts at once.
"""

import contextlib
import importlib.metadata
import json
import logging
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock

from oass_jax.config_file import flatten
from oass_jax.errors import UserError
from oass_jax.run.files import csv_text, is_temporary, read_json, remove_leftovers, write_bytes

# In the folder of an evaluation, `eval/DATASET_SPLIT` or `cams/DATASET_SPLIT`.
SUMMARY = "summary.json"
PER_CLASS = "per_class.csv"
PREDICTIONS = "predictions.csv"
SCORES = "scores.npz"
SERVER_ARCHIVE = "results.tgz"
THRESHOLDS = "thresholds.csv"
PICTURES = "pictures"  # a folder, with an index of its files
PICTURES_INDEX = "index.json"
# Of `config.eval`: what makes the numbers what they are, and so belongs beside them.
SETTINGS = ("weights", "logits", "difficult", "image_px", "scales", "flip")
# Prefix of the file by which processes check that they share the workdir.
SHARED = ".shared-"

logger = logging.getLogger(__name__)
_IN_SUMMARY = {"map", "map_voc", "ap", "num_images", "image_px", "weights", "step"}
PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")


def evaluation_name(dataset: str, split: str) -> str:
    """`DATASET_SPLIT`, the data set by its name with a dash: `voc-2012_val`."""
    return f"{dataset.replace('/', '-')}_{split}"


def read_summary(path: Path) -> dict[str, Any]:
    """The summary of an evaluation; an empty one where there is none, or a damaged one."""
    summary = read_json(path)
    return summary if summary.keys() >= _IN_SUMMARY else {}


class Workdir:
    """The folder of a run. Its methods write nothing unless `writes`.

    Attributes:
      root: the folder.
      writes: whether this process writes; of several only the first does.
      lock: held while a run trains.
      holder: process and host of the run that holds it, JSON.
      config: every field, JSON.
      env: every start of the run, JSON.
      classes: class names, one a line, in the order of the scores.
      split_list: which image is in which split, where the data set does not say so.
      checksums: of the images that were read in place, see `data.checksums`.
      thresholds: the probability each class is predicted from, JSON.
      metrics: one JSON object a line.
      events: folder of the TensorBoard events.
      checkpoints: orbax's folder.
      readme: the model card.
      report: the page of `oass_jax.report`.
    """

    def __init__(self, root: Path, *, writes: bool = True):
        """Names the files; creates nothing."""
        self.root, self.writes = root, writes
        self.lock = root / ".lock"
        self.holder = root / ".lock.json"
        self.config = root / "config.json"
        self.env = root / "env.json"
        self.classes = root / "classes.txt"
        self.split_list = root / "split.csv"
        self.checksums = root / "checksums.npy"
        self.thresholds = root / "thresholds.json"
        self.metrics = root / "metrics.jsonl"
        self.events = root / "tb"
        self.checkpoints = root / "checkpoints"
        self.readme = root / "README.md"
        self.report = root / "report.html"

    def evaluation(self, dataset: str, split: str) -> Path:
        """`eval/DATASET_SPLIT`, see `evaluation_name`."""
        return self.evaluation_named(evaluation_name(dataset, split))

    def evaluation_named(self, name: str) -> Path:
        """`eval/NAME`, of a name from `evaluation_name`."""
        return self.root / "eval" / name

    def cams(self, dataset: str, split: str) -> Path:
        """`cams/DATASET_SPLIT`, named like the folder of an evaluation."""
        return self.root / "cams" / evaluation_name(dataset, split)

    def fields(self) -> dict[str, Any]:
        """`a.b` -> value of every field of `config.json`; empty where there is none."""
        return flatten(read_json(self.config))

    def validation(self) -> tuple[str | None, str | None]:
        """Data set and split that the run is validated on as it trains; None where unknown."""
        fields = self.fields()
        return fields.get("eval.dataset"), fields.get("eval.split")

    def summaries(self) -> dict[str, Path]:
        """`DATASET_SPLIT` -> `summary.json` of every evaluation, by name."""
        return {path.parent.name: path for path in sorted(self.root.glob(f"eval/*/{SUMMARY}"))}

    def write_bytes(self, path: Path, data: bytes) -> None:
        """Writes a file whole or not at all, see the function `write_bytes`."""
        if self.writes:
            write_bytes(path, data)

    def replace_files(self, path: Path, files: Mapping[str, bytes]) -> None:
        """Writes the files of a folder, and removes those that were there before.

        Args:
          path: of the folder.
          files: name -> content, in the order in which they are written.
        """
        if not self.writes:
            return
        for name, data in files.items():
            write_bytes(path / name, data)
        remove_leftovers(path)
        for old in path.glob("*"):
            # What another process writes at this moment is not touched.
            if old.name not in files and not is_temporary(old.name) and old.is_file():
                old.unlink(missing_ok=True)

    def read_bytes(self, path: Path) -> bytes:
        """The content of a file; nothing where there is no such file, or it cannot be read."""
        try:
            return path.read_bytes()
        except OSError:
            return b""

    def write_text(self, path: Path, text: str) -> None:
        """Writes a text as UTF-8."""
        self.write_bytes(path, text.encode())

    def write_json(self, path: Path, value: Any) -> None:
        """Writes a value as indented JSON."""
        self.write_text(path, json.dumps(value, indent=2) + "\n")

    def write_csv(self, path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
        """Writes a table, see `csv_text`."""
        self.write_text(path, csv_text(header, rows))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Creates the folder where there is none, and keeps other runs out of it.

        The lock belongs to the process: the kernel releases it, however the process ends.

        Raises:
          UserError: another run holds the folder, it is not empty and holds no run, or it cannot be
            written to.
        """
        if not self.writes:
            yield
            return
        lock = filelock.FileLock(self.lock, timeout=0)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._refuse_other_content()
            lock.acquire()
            remove_leftovers(self.root)
            self.write_json(self.holder, {"pid": os.getpid(), "host": platform.node()})
        except filelock.Timeout:
            holder = read_json(self.holder)
            raise UserError(
                f"another run is in {self.root}: process {holder.get('pid', 'unknown')} on "
                f"{holder.get('host', 'an unknown host')}; stop it or choose another --workdir"
            ) from None
        except OSError as error:
            raise UserError(
                f"cannot write to the workdir {self.root}: {error.strerror}; "
                "choose another --workdir"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _refuse_other_content(self) -> None:
        # What a run leaves that was killed before it had written its config.
        own = {self.lock.name, self.holder.name, self.checkpoints.name}
        names = (path.name for path in self.root.iterdir())
        other = sorted(
            name
            for name in names
            if name not in own and not is_temporary(name) and not name.startswith(SHARED)
        )
        # Other programs have a config.json, too; one of a run may be damaged.
        is_run = self.env.exists() or "data.dataset" in self.fields()
        if other and not is_run:
            raise UserError(
                f"{self.root} is not empty and holds no run, but {other[0]}: choose another "
                "--workdir"
            )

    def write_start(
        self,
        *,
        step: int,
        config: dict[str, Any],
        class_names: Sequence[str],
        devices: Sequence[str],
        num_processes: int,
    ) -> list[str]:
        """Writes `config.json` and `classes.txt`, and adds this start to `env.json`.

        Args:
          step: the step the run starts from.
          config: every field.
          class_names: in the order of the scores.
          devices: the kind of each device.
          num_processes: of the run.

        Returns:
          Notes for the user: fields that differ from the last start, and starts that made no
          progress.
        """
        config = json.loads(json.dumps(config))  # tuples become lists, as in the file
        previous = flatten(read_json(self.config) or config)
        notes = [
            f"changed since the last start: {name} was {previous.get(name)!r}, is {now!r}"
            for name, now in flatten(config).items()
            if previous.get(name) != now
        ]
        starts = self.starts()
        if sum(start.get("step") == step and not start.get("end") for start in starts[-3:]) == 3:
            notes.append(
                f"this is at least the fourth start at step {step}: the run ends before its next "
                "checkpoint; lower checkpoint.every_steps"
            )
        starts.append(
            {
                "step": step,
                "start": _now(),
                "end": None,
                "command": command(),
                "commit": _git_commit(),
                "python": platform.python_version(),
                "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
                "devices": list(devices),
                "processes": num_processes,
            }
        )
        self.write_json(self.config, config)
        self.write_text(self.classes, "".join(name + "\n" for name in class_names))
        self.write_json(self.env, {"starts": starts})
        return notes

    def write_end(self) -> None:
        """Records in `env.json` that this start ended by itself, and when."""
        starts = self.starts()
        for start in starts[-1:]:
            start["end"] = _now()
        self.write_json(self.env, {"starts": starts})

    def read_classes(self) -> tuple[str, ...]:
        """The class names the run was trained with, in the order of its scores.

        Raises:
          UserError: the folder holds no run.
        """
        try:
            text = self.classes.read_text(encoding="utf-8").removesuffix("\n")
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"{self.root} holds no run ({self.classes.name} is missing): train there first"
            ) from None
        except UnicodeDecodeError:
            text = ""
        if not text:
            raise UserError(f"{self.classes} is damaged: it lists the classes, one a line")
        return tuple(text.split("\n"))

    def starts(self) -> list[dict[str, Any]]:
        """What `env.json` says of every start, the last one at the end."""
        starts = read_json(self.env).get("starts")
        return [s for s in starts if isinstance(s, dict)] if isinstance(starts, list) else []


def command() -> str:
    """The command line of this process, as a shell takes it."""
    return shlex.join(sys.orig_argv)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _git_commit() -> str | None:
    """Commit of the code, with a mark where files differ from it; None outside a checkout."""
    words = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return None  # an installed package: a repository around it is not its own
    try:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
