"""What a run leaves on disk, beside checkpoints and metrics. Every file is written whole or not."""

import csv
import importlib.metadata
import io
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from oass_jax.errors import UserError

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file under a temporary name and renames it, so no reader ever sees half of it.

    Only process 0 of a run writes.
    """
    if jax.process_index() != 0:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def write_text(path: Path, text: str) -> None:
    """Writes a text as UTF-8, see `write_bytes`."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path, default: Any) -> Any:
    """Reads a value that `write_json` wrote.

    Args:
      path: of the file.
      default: what stands for a file that does not exist.
    """
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else default


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Writes a table; Python floats get four decimals, everything else stands as it is."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([f"{x:.4f}" if isinstance(x, float) else x for x in row])
    write_text(path, text.getvalue())


def null_for_nan(value: float) -> float | None:
    """A number as JSON takes it, None where it is undefined."""
    return float(value) if np.isfinite(value) else None


def create(folder: Path) -> None:
    """Makes the workdir.

    Raises:
      UserError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / ".probe", "")
        (folder / ".probe").unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write to the workdir {folder}: {error.strerror}; choose another --workdir"
        ) from error


def write_start(
    folder: Path, *, step: int, config: dict[str, Any], class_names: tuple[str, ...]
) -> list[str]:
    """Writes `config.json` and `classes.txt`, and adds this start to `env.json`.

    Args:
      folder: the workdir.
      step: the step the run starts from.
      config: every field.
      class_names: in the order of the scores.

    Returns:
      What to tell the user: fields that differ from the last start, and starts that came to
      nothing.
    """
    config = json.loads(json.dumps(config))  # tuples become lists, as in the file
    former = flatten_dict(read_json(folder / "config.json", config), sep=".")
    notes = [
        f"changed since the last start: {name} was {former.get(name)!r}, is {now!r}"
        for name, now in flatten_dict(config, sep=".").items()
        if former.get(name) != now
    ]
    starts = read_json(folder / "env.json", {"starts": []})["starts"]
    fruitless = sum(1 for start in starts[-3:] if start["step"] == step and not start["end"])
    if fruitless == 3:
        notes.append(
            f"this is at least the fourth start at step {step}: the run ends before its next "
            "checkpoint; lower checkpoint.every_steps"
        )
    starts.append(
        {
            "step": step,
            "start": _now(),
            "end": None,
            "command": shlex.join(sys.orig_argv),
            "commit": _git_commit(),
            "python": platform.python_version(),
            "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
            "devices": [device.device_kind for device in jax.devices()],
            "processes": jax.process_count(),
        }
    )
    write_json(folder / "config.json", config)
    write_text(folder / "classes.txt", "".join(name + "\n" for name in class_names))
    write_json(folder / "env.json", {"starts": starts})
    return notes


def write_end(folder: Path) -> None:
    """Notes in `env.json` that this start ended by itself, and when."""
    env = read_json(folder / "env.json", {"starts": []})
    for start in env["starts"][-1:]:
        start["end"] = _now()
    write_json(folder / "env.json", env)


def read_classes(folder: Path) -> tuple[str, ...]:
    """The class names a run was trained with, in the order of its scores.

    Raises:
      UserError: the workdir holds no run.
    """
    try:
        return tuple((folder / "classes.txt").read_text(encoding="utf-8").splitlines())
    except FileNotFoundError:
        raise UserError(
            f"{folder} holds no run (classes.txt is missing): train there first"
        ) from None


def write_readme(folder: Path, *, title: str) -> None:
    """Writes the model card: the numbers so far, the command, and what each file is.

    Args:
      folder: the workdir.
      title: one line.
    """
    results = [
        f"* {path.parent.name}: mAP {summary['map']:.2f}, {summary['map_voc']:.2f} by VOC's "
        f"formula, over {summary['num_images']} images ({summary['weights']} weights, step "
        f"{summary['step']})"
        for path in sorted(folder.glob("eval/*/summary.json"))
        if (summary := read_json(path, {})).get("map") is not None
    ]
    starts = read_json(folder / "env.json", {"starts": []})["starts"]
    command = starts[-1]["command"] if starts else shlex.join(sys.orig_argv)
    text = README.format(
        title=title, results="\n".join(results) or "Not evaluated yet.", command=command
    )
    write_text(folder / "README.md", text)


README = """# {title}

{results}

    {command}

The same command continues the run; when it is finished it shows the result.

| file | what it is |
| --- | --- |
| `config.json` | every field; replay it with `--config=from_json:WORKDIR/config.json` |
| `env.json` | every start: step, time, versions, devices, commit, command line |
| `classes.txt` | class names in the order of the scores |
| `metrics.jsonl` | training and validation metrics, one JSON object a line |
| `tb/` | the same for TensorBoard |
| `checkpoints/` | orbax: the last ones and the best by validation mAP |
| `eval/DATASET_SPLIT/summary.json` | mAP, AP of each class, precision, recall and F1, percent |
| `eval/DATASET_SPLIT/per_class.csv` | the same numbers and the counts of each class |
| `eval/DATASET_SPLIT/predictions.csv` | the probability of each class for each image |
| `eval/DATASET_SPLIT/scores.npz` | every logit and label; `numpy.load` reads it |
| `eval/DATASET_SPLIT/results.tgz` | for PASCAL VOC's evaluation server, of VOC data sets |
| `cams/DATASET_SPLIT/summary.json` | mIoU of the class maps, IoU of each class, percent |
| `cams/DATASET_SPLIT/thresholds.csv` | mIoU at each background threshold |
| `cams/DATASET_SPLIT/per_class.csv` | IoU and false pixels of each class at the best threshold |
| `cams/DATASET_SPLIT/IMAGE_ID.npy` | the maps of an image, if exported |
"""


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _git_commit() -> str | None:
    """Commit of the code, with a mark where files differ from it; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    root = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
