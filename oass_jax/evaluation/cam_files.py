"""What the measurement of class maps leaves in a workdir. Every file is written whole or not."""

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from oass_jax.data.image_file import SUFFIXES
from oass_jax.errors import UserError
from oass_jax.evaluation.average_precision import mean
from oass_jax.evaluation.cam import EPSILON
from oass_jax.evaluation.cam_iou import Segmentation
from oass_jax.run import workdir
from oass_jax.run.files import none_for_nan, safe_name
from oass_jax.run.workdir import Workdir

# Pixels of the image a pixel of the small map, as projects for segmentation expect.
EXPORT_STRIDE = 4
_MAX_BYTES = 240  # of a name; file systems take 255, of which a temporary name needs 13


def map_names(filenames: Iterable[str]) -> list[str]:
    """The names of the files that `write_maps` writes, flat whatever folders the images are in.

    Args:
      filenames: of the images.

    Raises:
      UserError: two would be the same, or one is too long.
    """
    names, image_of = [], {}
    for filename in filenames:
        filename = os.path.normpath(filename)
        stem, suffix = os.path.splitext(filename)
        name = f"{safe_name(stem if suffix.lower() in SUFFIXES else filename)}.npy"
        names.append(name)
        if len(name.encode(errors="surrogateescape")) > _MAX_BYTES:
            raise UserError(
                f"the path of {filename} is too long for the name of its class maps, {name}: list "
                "images by shorter paths"
            )
        if (other := image_of.setdefault(name, filename)) != filename:
            raise UserError(
                f"the class maps of {other} and {filename} would both be {name}: rename one of the "
                "images, or leave out cam.export"
            )
    return names


def write_maps(
    folder: Workdir, target: Path, name: str, classes: np.ndarray, maps: np.ndarray
) -> None:
    """Writes the maps of an image in the form that IRN reads.

    The file is a pickled dictionary, read by `np.load(path, allow_pickle=True).item()`: `keys`,
    int64 `[K]`, the labelled classes from 0; `high_res`, float32 `[K, h, w]`; and `cam`, float32
    `[K, ceil(h / 4), ceil(w / 4)]`, the means of 4 by 4 pixels, divided by their maximum.

    Args:
      folder: the workdir.
      target: `cams/DATASET_SPLIT` of it.
      name: of the file, see `map_names`.
      classes: int64 `[K]`.
      maps: float32 `[K, h, w]`, each divided by its own maximum.
    """
    small = _shrink(maps)
    small /= small.max(axis=(1, 2), keepdims=True, initial=0.0) + EPSILON
    packed = io.BytesIO()
    np.save(packed, {"keys": classes, "cam": small, "high_res": maps}, allow_pickle=True)
    folder.write_bytes(target / name, packed.getvalue())


def write_result(
    folder: Workdir,
    target: Path,
    *,
    class_names: tuple[str, ...],
    result: Segmentation,
    pointing: np.ndarray,
    about: dict[str, Any],
) -> dict[str, Any]:
    """Writes `thresholds.csv`, `per_class.csv` and `summary.json`.

    Args:
      folder: the workdir.
      target: `cams/DATASET_SPLIT` of it.
      class_names: C names, without the background.
      result: the metrics, in percent.
      pointing: `[C]`, see `pointing_game.accuracy`.
      about: what else belongs in the summary: step, weights, scales and so on.

    Returns:
      What `summary.json` holds.
    """
    names, best = ("background", *class_names), result.best
    shares = (result.iou, result.false_positive, result.false_negative)
    miou, positive, negative = (mean(share) for share in shares)
    iou = zip(names, result.iou[best], strict=True)
    summary = {
        "miou": none_for_nan(miou[best]),
        "threshold": round(float(result.thresholds[best]), 6),
        "false_positive": none_for_nan(positive[best]),
        "false_negative": none_for_nan(negative[best]),
        "iou": {name: none_for_nan(x) for name, x in iou},
        "absent": [names[c] for c in result.absent],
        "pointing_game": none_for_nan(mean(pointing)),
    } | about
    columns = ["false_positive", "false_negative"]
    thresholds = [f"{threshold:.6g}" for threshold in result.thresholds]
    curve = zip(thresholds, miou, positive, negative, strict=True)
    # The background does not point.
    pointing = np.append(np.nan, pointing)
    per_class = zip(names, *(share[best] for share in shares), pointing, strict=True)
    folder.write_csv(target / workdir.THRESHOLDS, ["threshold", "miou", *columns], curve)
    folder.write_csv(
        target / workdir.PER_CLASS, ["class", "iou", *columns, "pointing_game"], per_class
    )
    folder.write_json(target / workdir.SUMMARY, summary)
    return summary


def result_table(summary: dict[str, Any], target: Path) -> str:
    """The intersection over union of every class as lines of text, their mean, and the rest.

    Args:
      summary: what `summary.json` holds.
      target: the folder it is in.
    """
    with_mask = summary["num_images"] - summary["without_mask"]
    heading = (
        f"class maps of {summary['dataset']} {summary['split']}, {with_mask} of "
        f"{summary['num_images']} images with a mask, step {summary['step']}, "
        f"{summary['weights']} weights"
    )
    pointing = summary.get("pointing_game")
    last = [f"written to {target}"]
    if pointing is not None:
        last.insert(0, f"  pointing game {pointing:.2f} %, mean of the classes")
    if summary["miou"] is None:  # boxes and an export need no masks
        return "\n".join([heading, *last])
    width = max(map(len, summary["iou"]))
    rows = [*summary["iou"].items(), ("mIoU", summary["miou"])]
    lines = [
        f"  {name:<{width}}  " + ("absent" if iou is None else f"{iou:6.2f}") for name, iou in rows
    ]
    errors = (
        f"  at threshold {summary['threshold']:g}; of the union {summary['false_positive']:.2f} "
        f"are false positives, {summary['false_negative']:.2f} false negatives"
    )
    heading += ", intersection over union in percent:"
    return "\n".join([heading, *lines, errors, *last])


def _shrink(maps: np.ndarray) -> np.ndarray:
    """Means of `EXPORT_STRIDE` by `EXPORT_STRIDE` pixels; the last ones may be of fewer."""
    for axis in (1, 2):
        starts = np.arange(0, maps.shape[axis], EXPORT_STRIDE)
        pixels = np.diff(np.append(starts, maps.shape[axis])).astype(np.float32)
        shape = [-1 if a == axis else 1 for a in range(3)]
        maps = np.add.reduceat(maps, starts, axis=axis) / pixels.reshape(shape)
    return maps
