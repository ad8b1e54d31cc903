"""Single images to predict, with what is known of those of the split that a run is evaluated on."""

import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from oass_jax.data.example import Split
from oass_jax.data.image_file import SUFFIXES, read_rgb
from oass_jax.errors import UserError
from oass_jax.evaluation.predictor import Predictor
from oass_jax.run import build
from oass_jax.run.workdir import Workdir


class LabelledImage(NamedTuple):
    """An image and what is known of it.

    Attributes:
      name: path, or file name in its split.
      data: the bytes of its file, which a `Predictor` reads as it reads any other.
      image: upright, RGB.
      labels: the classes that are present; none where they are not known.
      boxes: float64 `[M, 4]`, ymin, xmin, ymax, xmax in [0, 1]; None where they are not known.
      box_label: int `[M]`, class of each box; None likewise.
    """

    name: str
    data: bytes
    image: Image.Image
    labels: tuple[str, ...] = ()
    boxes: np.ndarray | None = None
    box_label: np.ndarray | None = None


def read_file(path: str) -> LabelledImage:
    """Reads an image of which nothing is known.

    Raises:
      UserError: it cannot be read.
    """
    try:
        data = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    return LabelledImage(path, data, read_rgb(data, name=path))


def open_evaluated(model: Predictor) -> Split:
    """Opens the split that `eval` of the run's config names.

    Args:
      model: the opened run.

    Raises:
      UserError: it cannot be opened.
    """
    config, folder = model.config, Workdir(model.workdir)
    dataset, split = config.eval.dataset, config.eval.split
    return build.open_split(config, folder, dataset, split, class_names=model.class_names)


def find(split: Split, filename: str) -> LabelledImage:
    """Finds an image by its file name.

    Args:
      split: where to look.
      filename: as the split has it, or without its suffix.

    Raises:
      UserError: there is none.
    """
    names = split.filenames
    for shown in (names, [_without_suffix(name) for name in names]):
        if filename in shown:
            return _read(split, shown.index(filename))
    similar = difflib.get_close_matches(filename, names, n=1)
    hint = f"did you mean {similar[0]}?" if similar else f"one of those is {names[0]}"
    raise UserError(
        f"{filename} is neither a file nor an image of {split.name} {split.split}: {hint}"
    )


def _without_suffix(name: str) -> str:
    """A file name without that of an image; names may hold dots, and lists may have none."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in SUFFIXES else name


def evenly_spaced(split: Split, count: int) -> Iterator[LabelledImage]:
    """Images with labels, from the first to the last at even distances.

    Args:
      split: where from.
      count: how many; fewer where there are not as many.

    Raises:
      UserError: no image has a label.
    """
    labelled = np.flatnonzero((split.labels() == 1).any(axis=1))
    if not len(labelled):
        raise UserError(f"no image of {split.name} {split.split} has a label: name image files")
    chosen = np.linspace(0, len(labelled) - 1, min(count, len(labelled))).round().astype(int)
    return (_read(split, index) for index in labelled[chosen])


def _read(split: Split, index: int) -> LabelledImage:
    record = split.source[int(index)]
    objects, data = record["objects"], split.read_image(record)
    return LabelledImage(
        name=record["image/filename"].decode(),
        data=data,
        image=read_rgb(data, name=split.where(record)),
        labels=tuple(split.class_names[c] for c in record["labels"]),
        boxes=split.boxes(record, data) if split.has_boxes else None,
        box_label=np.array(objects["label"], int) if split.has_boxes else None,
    )
