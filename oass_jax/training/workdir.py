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
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from oass_jax.data.errors import UserError
from oass_jax.evaluation import metric

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")


def write_text(path: Path, text: str) -> None:
    """Writes a file under a temporary name and renames it, so no reader ever sees half of it.

    Only process 0 of a run writes.
    """
    if jax.process_index() != 0:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON."""
    write_text(path, json.dumps(value, indent=2) + "\n")


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
    former = _flat(_read_json(folder / "config.json", config))
    notes = [
        f"changed since the last start: {name} was {former.get(name)!r}, is {now!r}"
        for name, now in _flat(config).items()
        if former.get(name) != now
    ]
    starts = _read_json(folder / "env.json", {"starts": []})["starts"]
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
    env = _read_json(folder / "env.json", {"starts": []})
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


def write_evaluation(
    folder: Path,
    *,
    dataset: str,
    split: str,
    class_names: tuple[str, ...],
    result: metric.MeanAveragePrecision,
    label: np.ndarray,
    scores: np.ndarray,
    filenames: list[str],
    about: dict[str, Any],
) -> None:
    """Writes `eval/DATASET_SPLIT/{summary.json,per_class.csv,predictions.csv}`.

    Args:
      folder: the workdir.
      dataset: tfds name, `voc/2012`.
      split: name of the split.
      class_names: C names.
      result: the metrics, in percent.
      label: `[N, C]`, 1, 0 or -1.
      scores: `[N, C]` logits, written as probabilities.
      filenames: N names of images.
      about: what else belongs in the summary: step, weights, logits, difficult.
    """
    target = evaluation_folder(folder, dataset, split)
    summary = {
        "map": _null_for_nan([result.map])[0],
        "map_voc": _null_for_nan([result.map_voc])[0],
        "ap": dict(zip(class_names, _null_for_nan(result.ap), strict=True)),
        "left_out": [class_names[c] for c in result.left_out],
        "num_images": len(scores),
    }
    positives, negatives = (label == 1).sum(0), (label == 0).sum(0)
    columns = (class_names, result.ap, result.ap_voc, positives, negatives)
    per_class = [
        [name, f"{ap:.4f}", f"{ap_voc:.4f}", pos, neg]
        for name, ap, ap_voc, pos, neg in zip(*columns, strict=True)
    ]
    probabilities = 1.0 / (1.0 + np.exp(-scores.astype(np.float64)))
    predictions = [
        [name, *(f"{p:.9g}" for p in row)]
        for name, row in zip(filenames, probabilities, strict=True)
    ]
    header = ["class", "ap", "ap_voc", "positives", "negatives"]
    write_text(target / "predictions.csv", _csv(["image", *class_names], predictions))
    write_text(target / "per_class.csv", _csv(header, per_class))
    write_json(target / "summary.json", summary | about)


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
        if (summary := _read_json(path, {})).get("map") is not None
    ]
    starts = _read_json(folder / "env.json", {"starts": []})["starts"]
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
| `config.json` | every field; replay it with `--config=configs/from_json.py:WORKDIR/config.json` |
| `env.json` | every start: step, time, versions, devices, commit, command line |
| `classes.txt` | class names in the order of the scores |
| `metrics.jsonl` | training and validation metrics, one JSON object a line |
| `tb/` | the same for TensorBoard |
| `checkpoints/` | orbax: the last ones and the best by validation mAP |
| `eval/DATASET_SPLIT/summary.json` | mAP and average precision of each class, percent |
| `eval/DATASET_SPLIT/per_class.csv` | both average precisions and the counts of each class |
| `eval/DATASET_SPLIT/predictions.csv` | the probability of each class for each image |
| `cams/DATASET_SPLIT/summary.json` | mIoU of the class maps, IoU of each class, percent |
| `cams/DATASET_SPLIT/thresholds.csv` | mIoU at each background threshold |
| `cams/DATASET_SPLIT/per_class.csv` | IoU and false pixels of each class at the best threshold |
| `cams/DATASET_SPLIT/IMAGE_ID.npy` | the maps of an image, if exported |
"""


def evaluation_folder(folder: Path, dataset: str, split: str) -> Path:
    """`WORKDIR/eval/DATASET_SPLIT`, the data set by its tfds name with a dash."""
    return folder / "eval" / f"{dataset.replace('/', '-')}_{split}"


def result_table(folder: Path, dataset: str, split: str) -> str:
    """The average precision of every class as lines of text, and their mean.

    Args:
      folder: the workdir.
      dataset: tfds name.
      split: name of the split.

    Returns:
      An empty string where this split was not evaluated.
    """
    path = evaluation_folder(folder, dataset, split) / "summary.json"
    if not path.exists():
        return ""
    summary = _read_json(path, {})
    rows = [*summary["ap"].items(), ("mAP", summary["map"]), ("mAP (VOC)", summary["map_voc"])]
    width = max(len(name) for name, _ in rows)
    lines = [
        f"  {name:<{width}}  " + ("no positives" if ap is None else f"{ap:6.2f}")
        for name, ap in rows
    ]
    title = f"{dataset} {split}, {summary['num_images']} images, step {summary['step']}, "
    return "\n".join([title + "average precision in percent:", *lines, f"written to {path.parent}"])


def _csv(header: list[str], rows: list[list]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([header, *rows])
    return text.getvalue()


def _null_for_nan(values: Iterable[float]) -> list[float | None]:
    return [float(x) if np.isfinite(x) else None for x in values]


def _read_json(path: Path, default: Any) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else default


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`a.b` -> value of every field of a nested config."""
    fields = {}
    for name, value in config.items():
        nested = isinstance(value, dict)
        fields |= _flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return fields


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
