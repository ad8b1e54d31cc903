"""Workdirs as an evaluation leaves them, from made-up labels and scores, with images to read."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from oass_jax import config_file
from oass_jax.evaluation import average_precision, score_files, thresholds
from oass_jax.figures.source import Source
from oass_jax.run.workdir import Workdir, evaluation_name


def labels_and_logits(num_images, num_classes, *, seed=0, positives=0.2):
    """Labels of which some are ignored, one positive of each class at least, and their scores."""
    rng = np.random.default_rng(seed)
    label = (rng.random((num_images, num_classes)) < positives).astype(np.int8)
    label[rng.random(label.shape) < 0.02] = -1
    label[np.arange(num_classes) % num_images, np.arange(num_classes)] = 1
    logits = rng.normal(-1.5, 1.5, label.shape) + 3 * (label == 1)
    return label, logits.astype(np.float32)


def names(num, prefix, suffix=""):
    """Names that are told apart."""
    return [f"{prefix}{number:04}{suffix}" for number in range(num)]


def evaluation(label, logits, threshold=None):
    """An evaluation that lies in no folder, of the classes a, b, c."""
    label = np.array(label, np.int8)
    return Source(
        folder=Workdir(Path("none")),
        name="run",
        evaluation="csv_val",
        summary={},
        images=tuple(names(len(label), "", ".jpg")),
        class_names=tuple("abc"[: label.shape[1]]),
        label=label,
        logits=np.array(logits, np.float32),
        threshold=np.full(label.shape[1], 0.5) if threshold is None else np.array(threshold),
        has_thresholds=True,
        thresholds_of=None,
    )


def write_run(
    root,
    label,
    logits,
    *,
    class_names=None,
    images=None,
    path="",
    split="val",
    metrics=(),
    thresholds_of=None,
    data=None,
    **about,
):
    """Writes config, classes, metrics and an evaluation; returns the workdir's path.

    Args:
      root: the workdir.
      label: `[N, C]`.
      logits: `[N, C]`.
      class_names: C names; None for some.
      images: N file names; None for some.
      path: of the list the images are in.
      split: that was evaluated.
      metrics: lines of `metrics.jsonl`.
      thresholds_of: see `score_files.Evaluation`.
      data: fields of the config's section `data`.
      **about: what `summary.json` shall say otherwise.
    """
    class_names = class_names or names(label.shape[1], "class ")
    images = images or names(len(label), "", ".jpg")
    folder = Workdir(root)
    config = config_file.load("own").to_dict()
    config["data"] |= {"dataset": "csv", "path": str(path)} | (data or {})
    config["eval"] |= {"dataset": "csv", "split": "val"}
    folder.write_start(
        step=0, config=config, class_names=class_names, devices=["cpu"], num_processes=1
    )
    folder.write_end()
    folder.write_text(folder.metrics, "".join(json.dumps(line) + "\n" for line in metrics))
    chosen = thresholds.best_f1(logits, label, source="csv val")
    summary = score_files.summarize(
        class_names, logits, label, threshold=chosen.probability, thresholds_of=thresholds_of
    )
    summary |= {"dataset": "csv", "split": split, "step": 120, "checkpoint": "last"}
    summary |= {"command": "python -m oass_jax.main", "weights": "student", "logits": "base"}
    summary |= {"difficult": "positive", "image_px": 32, "scales": [1.0], "flip": False} | about
    score_files.write(
        folder,
        score_files.Evaluation(
            dataset="csv",
            split=split,
            challenge=None,
            competition="comp2",
            class_names=class_names,
            filenames=images,
            label=label,
            prediction=logits,
            scores={"student/base": logits},
            result=average_precision.mean_average_precision(logits, label),
            thresholds=chosen,
            thresholds_of=thresholds_of,
            keeps_thresholds=thresholds_of is None,
            summary=summary,
        ),
    )
    return root


def write_images(folder, images, label, class_names, *, size=(64, 48)):
    """Writes JPEGs, no two the same, and the list of them; returns the list's path."""
    folder.mkdir()
    lines = ["image,labels,split"]
    coarse = np.random.default_rng(0).integers(0, 256, (len(images), 6, 8, 3), np.uint8)
    for name, row, pixels in zip(images, label, coarse, strict=True):
        Image.fromarray(pixels).resize(size).save(folder / name, "JPEG")
        found = "|".join(class_names[c] for c in np.flatnonzero(row == 1))
        quoted = name.replace('"', '""')
        lines.append(f'"{quoted}",{found},val')
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder / "labels.csv"


def write_pictures(root, images, *, split="val"):
    """Writes `pictures/` of the evaluation as it draws class maps."""
    folder = root / "eval" / evaluation_name("csv", split) / "pictures"
    folder.mkdir()
    index = []
    for number, image in enumerate(images):
        file = f"{number}.jpg"
        Image.new("RGB", (96, 64), (40 * number % 256, 90, 120)).save(folder / file)
        index.append(
            {
                "file": file,
                "image": image,
                "labels": ["cat"],
                "predicted": ["cat", "dog"],
                "width": 96,
                "height": 64,
            }
        )
    (folder / "index.json").write_text(json.dumps(index))
