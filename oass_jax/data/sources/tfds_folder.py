"""`tfds`: any data set that tfds has prepared as array_record, by its name or its folder.

It needs the features `image` and either `labels`, a sequence of classes, or `objects` with `label`
and, if there are boxes, `bbox`; `is_difficult` or `is_crowd` mark difficult objects. What is there
of class -1 is of none; objects of a `confidence` of 0, as Open Images has them, are not there.
"""

import contextlib
import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf import json_format
from tensorflow_datasets.core import read_only_builder

from oass_jax.data.example import Record, Split
from oass_jax.data.prepare import open_source
from oass_jax.data.sources import Location
from oass_jax.errors import UserError, first_line

_DIFFICULT = ("is_difficult", "is_crowd")
_FILENAMES = ("image/filename", "image/id", "filename", "file_name", "id")


class Records(Sequence[Record]):
    """The records of a tfds data set in the form of this project."""

    def __init__(self, source: Sequence[dict], features: dict[str, Any], used: Collection[str]):
        """Takes stored records, their features, and which of `_label_features` are used."""
        self._source = source
        self._has_labels, self._has_objects = "labels" in used, "objects" in used
        objects = features["objects"].feature if self._has_objects else ()
        self._has_boxes, self._has_confidence = "bbox" in objects, "confidence" in objects
        self._difficult = next((name for name in _DIFFICULT if name in objects), None)
        self._filename = next((name for name in _FILENAMES if name in features), None)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        if index >= len(self):  # array_record's own error would not end an iteration
            raise IndexError(index)
        stored = self._source[index]
        objects = stored["objects"] if self._has_objects else {"label": []}
        classes = np.array(objects["label"], int)
        labels = np.array(stored["labels"] if self._has_labels else [], int)
        is_there = classes >= 0
        if self._has_confidence:
            is_there &= np.array(objects["confidence"]) > 0
        difficult = np.zeros(len(classes), bool)
        if self._difficult:
            difficult = np.array(objects[self._difficult], bool)
        boxes = np.reshape(objects["bbox"], (-1, 4))[is_there] if self._has_boxes else []
        classes = classes[is_there]
        return {
            "image": stored["image"],
            "image/filename": self._name(stored, index),
            "objects": {
                "bbox": boxes,
                "label": classes,
                "is_difficult": difficult[is_there],
            },
            "labels": np.union1d(labels[labels >= 0], classes).astype(int),
            "segmentation_mask": b"",
        }

    def _name(self, stored: dict[str, Any], index: int) -> bytes:
        if self._filename is None:
            return b"%d" % index
        name = stored[self._filename]
        text = name.decode(errors="backslashreplace") if isinstance(name, bytes) else str(name)
        return text.encode()


def open_split(
    name: str, split: str, location: Location, *, class_names: tuple[str, ...] | None
) -> Split:
    """Opens a split of a prepared tfds data set; see `pipeline.open_split`.

    Raises:
      UserError: there is no such data set or split, or its features are others.
    """
    del class_names
    if location.path is None:
        raise UserError(f"{name} needs the name or folder of its data set: set --config.data.path")
    builder = _open_builder(location)
    features, where = builder.info.features, builder.data_dir
    if not builder.info.splits:
        raise UserError(f"{where} is not prepared: let tfds prepare it as array_record first")
    found = _label_features(features)
    if "image" not in features or not found:
        raise UserError(
            f"{where} has the features {', '.join(sorted(features))}: it needs image and labels, a "
            "sequence of classes, or objects with a label"
        )
    try:
        source = open_source(builder, split)
    except NotImplementedError as error:
        raise UserError(
            f"{where} is stored in a form that is not read without TensorFlow: prepare it with "
            "file_format='array_record'"
        ) from error
    note = f"{builder.info.full_name} in {where}"
    if len({tuple(label.names) for label in found.values()}) > 1:
        del found["objects"]
        note += "; objects are not read: their classes are not those of labels"
    return Split(
        name=name,
        version=str(builder.version),
        split=split,
        class_names=tuple(next(iter(found.values())).names),
        sources={builder.info.full_name: _fingerprint(builder)},
        source=Records(source, features, found),
        has_boxes="objects" in found and "bbox" in features["objects"].feature,
        notes=(note,),
    )


def _open_builder(location: Location) -> tfds.core.DatasetBuilder:
    folder = location.path
    try:
        if (folder / "dataset_info.json").is_file():
            return tfds.builder_from_directory(folder)
        name, options = tfds.core.naming.parse_builder_name_kwargs(
            str(folder), data_dir=location.data_dir
        )
        # What is prepared needs no code, which of some data sets imports TensorFlow.
        with contextlib.suppress(tfds.core.DatasetNotFoundError):
            return read_only_builder.builder_from_files(str(name), **options)
        return tfds.builder(str(folder), data_dir=location.data_dir)
    except (
        *(OSError, ValueError, LookupError, ImportError, json_format.ParseError),
        tfds.core.DatasetNotFoundError,
    ) as error:
        raise UserError(
            f"{folder} is neither a folder with a dataset_info.json nor a prepared tfds data set "
            f"({first_line(error)}): check --config.data.path and --config.data.data_dir"
        ) from error


def _fingerprint(builder: tfds.core.DatasetBuilder) -> str:
    """Of what tfds has recorded of the prepared data: its name, splits, sizes and features."""
    names = ("dataset_info.json", "features.json")
    paths = [Path(builder.data_dir) / name for name in names]
    found = [path.read_bytes() for path in paths if path.is_file()]  # old ones lack the features
    return hashlib.sha256(b"".join([builder.info.full_name.encode(), *found])).hexdigest()


def _label_features(features: Any) -> dict[str, tfds.features.ClassLabel]:
    """The features of several classes, `labels` and `objects`, as far as they have any."""
    found = {}
    for name in ("labels", "objects"):
        inner = getattr(features[name], "feature", None) if name in features else None
        if name == "objects":
            inner = inner["label"] if hasattr(inner, "keys") and "label" in inner else None
        if isinstance(inner, tfds.features.ClassLabel):
            found[name] = inner
    return found
