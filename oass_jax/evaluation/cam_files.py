"""What the measurement of class maps leaves in a workdir. Every file is written whole or not."""

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from oass_jax.evaluation import score_files
from oass_jax.evaluation.cam import EPSILON
from oass_jax.evaluation.cam_iou import Segmentation, mean
from oass_jax.run import workdir

# Pixels of the image a pixel of the small map, as projects for segmentation expect.
EXPORT_STRIDE = 4


def cam_folder(folder: Path, dataset: str, split: str) -> Path:
    """`WORKDIR/cams/DATASET_SPLIT`, named like the folder of an evaluation."""
    return folder / "cams" / score_files.evaluation_folder(folder, dataset, split).name


def write_maps(folder: Path, filename: str, classes: np.ndarray, maps: np.ndarray) -> None:
    """Writes the maps of an image as `IMAGE_ID.npy`, in the form that IRN reads.

    The file is a pickled dictionary, read by `np.load(path, allow_pickle=True).item()`: `keys`,
    int64 `[K]`, the labelled classes from 0; `high_res`, float32 `[K, h, w]`; and `cam`, float32
    `[K, ceil(h / 4), ceil(w / 4)]`, the means of 4 by 4 pixels, divided by their maximum.

    Only process 0 of a run writes.

    Args:
      folder: of the split.
      filename: of the image; the id is what stands before its suffix.
      classes: int64 `[K]`.
      maps: float32 `[K, h, w]`, each divided by its own maximum.
    """
    if jax.process_index() != 0:
        return
    small = _shrink(maps)
    small /= small.max(axis=(1, 2), keepdims=True, initial=0.0) + EPSILON
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{Path(filename).stem}.npy"
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        np.save(file, {"keys": classes, "cam": small, "high_res": maps}, allow_pickle=True)
    os.replace(temporary, path)


def write_result(
    folder: Path, *, class_names: tuple[str, ...], result: Segmentation, about: dict[str, Any]
) -> None:
    """Writes `summary.json`, `thresholds.csv` and `per_class.csv`.

    Args:
      folder: of the split.
      class_names: C names, without the background.
      result: the metrics, in percent.
      about: what else belongs in the summary: step, weights, scales and so on.
    """
    names, best = ("background", *class_names), result.best
    shares = (result.iou, result.false_positive, result.false_negative)
    miou, positive, negative = (mean(share) for share in shares)
    summary = {
        "miou": workdir.null_for_nan(miou[best]),
        "threshold": round(float(result.thresholds[best]), 6),
        "false_positive": workdir.null_for_nan(positive[best]),
        "false_negative": workdir.null_for_nan(negative[best]),
        "iou": {
            name: workdir.null_for_nan(x) for name, x in zip(names, result.iou[best], strict=True)
        },
        "left_out": [names[c] for c in result.left_out],
    }
    columns = ["false_positive", "false_negative"]
    thresholds = [f"{threshold:.6g}" for threshold in result.thresholds]
    curve = zip(thresholds, miou, positive, negative, strict=True)
    per_class = zip(names, *(share[best] for share in shares), strict=True)
    workdir.write_csv(folder / "thresholds.csv", ["threshold", "miou", *columns], curve)
    workdir.write_csv(folder / "per_class.csv", ["class", "iou", *columns], per_class)
    workdir.write_json(folder / "summary.json", summary | about)


def result_table(folder: Path, title: str) -> str:
    """The intersection over union of every class as lines of text, and their mean.

    Args:
      folder: of the split, in which `summary.json` was written.
      title: the data set and the split.
    """
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    with_mask = summary["num_images"] - summary["without_mask"]
    heading = (
        f"class maps of {title}, {with_mask} of {summary['num_images']} images with a mask, step "
        f"{summary['step']}, {summary['weights']} weights"
    )
    last = f"written to {folder}"
    if summary["miou"] is None:  # an export needs no masks
        return f"{heading}\n{last}"
    width = max(map(len, summary["iou"]))
    rows = [*summary["iou"].items(), ("mIoU", summary["miou"])]
    lines = [
        f"  {name:<{width}}  " + ("left out" if iou is None else f"{iou:6.2f}")
        for name, iou in rows
    ]
    errors = (
        f"  at threshold {summary['threshold']:g}; {summary['false_positive']:.2f} of the union "
        f"are predicted falsely, {summary['false_negative']:.2f} left out falsely"
    )
    heading += ", intersection over union in percent:"
    return "\n".join([heading, *lines, errors, last])


def _shrink(maps: np.ndarray) -> np.ndarray:
    """Means of `EXPORT_STRIDE` by `EXPORT_STRIDE` pixels; the last ones may be of fewer."""
    for axis in (1, 2):
        starts = np.arange(0, maps.shape[axis], EXPORT_STRIDE)
        pixels = np.diff(np.append(starts, maps.shape[axis])).astype(np.float32)
        shape = [-1 if a == axis else 1 for a in range(3)]
        maps = np.add.reduceat(maps, starts, axis=axis) / pixels.reshape(shape)
    return maps
