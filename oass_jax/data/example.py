"""A record as it is stored -> arrays of one image; a list of them -> a batch."""

import dataclasses
import functools
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from oass_jax.data.image_file import decode_rgb, read_header, turn_boxes
from oass_jax.errors import UserError

# What a class becomes whose objects in an image are all difficult.
_LABEL_OF_DIFFICULT = {"positive": 1, "ignore": -1, "negative": 0}


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How images become arrays, whatever the split and the batch are.

    Attributes:
      canvas_px: side of the square canvas; larger images are shrunk to fit.
      max_boxes: slots for boxes.
      difficult: 'positive', 'ignore' or 'negative', what a class becomes whose objects in the
        image are all difficult.
      num_workers: worker processes; 0 to read in this process.
      num_threads: reading threads, of each worker if there are any; 0 reads in the calling one.
      cache: keep every decoded image in memory; without workers only.

    Raises:
      UserError: unknown rule for difficult objects, or a cache with workers.
    """

    canvas_px: int
    max_boxes: int
    difficult: str
    num_workers: int
    num_threads: int
    cache: bool

    def __post_init__(self):
        if self.difficult not in _LABEL_OF_DIFFICULT:
            raise UserError(
                f"unknown rule for difficult objects {self.difficult!r}: "
                f"there are {', '.join(_LABEL_OF_DIFFICULT)}"
            )
        if self.cache and self.num_workers:
            raise UserError(
                "data.cache needs data.num_workers=0: workers do not share their memory"
            )


class Objects(TypedDict):
    """The objects in an image.

    Attributes:
      bbox: `[N, 4]` ymin, xmin, ymax, xmax in [0, 1] of the upright image, but see `Split.boxes`.
      label: int `[N]`.
      is_difficult: bool `[N]`.
    """

    bbox: Sequence
    label: Sequence[int]
    is_difficult: Sequence[bool]


# An image of a split as it is stored.
Record = TypedDict(
    "Record",
    {
        "image": bytes | Path,  # of the file; its path if it is read in place
        "image/filename": bytes,  # unique in the split
        "objects": Objects,  # none where a data set has labels alone
        "labels": Sequence[int],  # classes that are present, difficult ones too, ascending
        "segmentation_mask": bytes,  # a PNG, see `scene_builder.SceneBuilder`; empty for none
        "ignored": NotRequired[Sequence[int]],  # classes that may be present or not
        "where": NotRequired[str],  # how an error names the image
        "listed_size": NotRequired[tuple[int, int]],  # height and width that boxes were given in
    },
)


@dataclasses.dataclass(frozen=True)
class Split:
    """An opened split.

    Attributes:
      name: of the data set, such as 'voc/2012'.
      version: of the data set, such as '1.0.0'.
      split: such as 'train_aug'; a slice such as 'val[:100]' works too.
      class_names: in the order of the labels.
      sources: file name -> fingerprint of what the data set was prepared from, or is read from.
      source: random access to the records.
      challenge: such as 'VOC2012', if its server takes result files as `evaluation.voc_server`
        writes them.
      has_boxes: whether objects come with boxes.
      siblings: the names of all splits of a data set whose splits share no image; else empty.
      split_list: where the files do not say which image is in which split, the choice that was
        made, as `Location.split_list` takes it.
      notes: what a user should know of how the files were understood, a line each.
    """

    name: str
    version: str
    split: str
    class_names: tuple[str, ...]
    sources: dict[str, str]
    source: Sequence[Record]
    challenge: str | None = None
    has_boxes: bool = True
    siblings: tuple[str, ...] = ()
    split_list: str = ""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.source)

    def filename(self, index: int) -> str:
        """The file name of a record."""
        return self.source[int(index)]["image/filename"].decode()

    @functools.cached_property
    def filenames(self) -> tuple[str, ...]:
        """The file names of all records."""
        return tuple(each["image/filename"].decode() for each in self._annotations)

    def where(self, record: Record) -> str:
        """How an error names the image of a record."""
        in_split = f"{record['image/filename'].decode()} of {self.name} {self.split}"
        return record.get("where", in_split)

    def read_image(self, record: Record) -> bytes:
        """The bytes of the image file of a record.

        Raises:
          UserError: it is read in place and cannot be.
        """
        if isinstance(record["image"], bytes):
            return record["image"]
        try:
            return record["image"].read_bytes()
        except OSError as error:
            raise UserError(f"{self.where(record)} cannot be read: {error.strerror}") from error

    def boxes(self, record: Record, data: bytes | None = None) -> np.ndarray:
        """The boxes of a record: float64 `[N, 4]`, ymin, xmin, ymax, xmax in [0, 1], upright.

        Of an image with an EXIF orientation programs write them of its stored pixels, or of the
        upright ones. Where it lies on its side the size in a list says which; else nothing does.

        Args:
          record: of the split.
          data: the bytes of its image file, if they are at hand.

        Raises:
          UserError: the image cannot be read.
        """
        boxes = np.reshape(np.asarray(record["objects"]["bbox"], np.float64), (-1, 4))
        listed = record.get("listed_size")
        if listed is None or not len(boxes) or listed[0] == listed[1]:
            return boxes
        file = record["image"] if data is None else data
        height, width, orientation = read_header(file, name=self.where(record))
        is_stored = orientation >= 5 and tuple(listed) == (height, width)
        return turn_boxes(boxes, orientation) if is_stored else boxes

    def has_labels(self) -> bool:
        """Whether any image has a label; VOC2012's test split, with secret labels, has none.

        As a rule the first record answers; only a split without labels is read to its end.
        """
        return any(len(record["labels"]) for record in self.source)

    def labels(self, difficult: str = "positive", *, count: int | None = None) -> np.ndarray:
        """The classes of every record: int8 `[N, C]`, 1, 0 or -1 (ignored).

        Reads every record, the first time, but decodes no image.

        Args:
          difficult: see `ReadOptions`.
          count: read so many records at even distances, where there are more; None for all.
        """
        records = self._annotations if count is None or count >= len(self) else self._sample(count)
        label = np.zeros([len(records), len(self.class_names)], np.int8)
        for row, record in zip(label, records, strict=True):
            _set_label(row, record, difficult)
        return label

    def _sample(self, count: int) -> list[Record]:
        return [self.source[int(index)] for index in np.linspace(0, len(self) - 1, count)]

    @functools.cached_property
    def _annotations(self) -> list[dict[str, Any]]:
        """All records without their images: prepared data can only be read with them."""
        dropped = ("image", "segmentation_mask")
        return [{k: x for k, x in each.items() if k not in dropped} for each in self.source]


def _set_label(label: np.ndarray, record: Record, difficult: str) -> None:
    """Sets the classes of a record in its int8 `[C]`, which is zero."""
    objects = record["objects"]
    classes = np.array(objects["label"], int)
    is_difficult = np.array(objects["is_difficult"], bool)
    label[list(record["labels"])] = 1
    # One object that is not difficult decides.
    only_difficult = np.setdiff1d(classes[is_difficult], classes[~is_difficult])
    label[only_difficult] = _LABEL_OF_DIFFICULT[difficult]
    label[list(record.get("ignored", ()))] = -1


class ExampleReader:
    """Record number -> example with its image decoded but not yet padded to the canvas.

    Numbers beyond the split become padding.

    Args:
      split: where from.
      options: all but the workers and threads is read.

    Raises:
      UserError: when called, a damaged image or more objects than slots.
    """

    def __init__(self, split: Split, options: ReadOptions):
        self._split = split
        self._options = options
        self._cached: dict[int, dict] | None = {} if options.cache else None

    def __call__(self, index: int) -> dict[str, np.ndarray]:
        """The arrays of a record; those of the module `pipeline` without the leading axis."""
        if index >= len(self._split):
            return self._padding()
        if self._cached is None:
            return self._read(index)
        if index not in self._cached:
            self._cached[index] = self._read(index)
        return self._cached[index]

    def _read(self, index: int) -> dict[str, np.ndarray]:
        record = self._split.source[index]
        where, data = self._split.where(record), self._split.read_image(record)
        image = decode_rgb(data, name=where, fit_px=self._options.canvas_px)
        objects, num = record["objects"], len(record["objects"]["bbox"])
        max_boxes = self._options.max_boxes
        if num > max_boxes:
            raise UserError(
                f"{where} has {num} objects: set data.max_boxes to that or more, it is {max_boxes}"
            )
        example = self._padding()
        _set_label(example["label"], record, self._options.difficult)
        if num:
            example["boxes"][:num] = self._split.boxes(record, data)
            example["box_label"][:num] = objects["label"]
        in_place = isinstance(record["image"], Path)
        return example | {
            "image": image,
            "size": np.array(image.shape[:2], np.int32),
            "mask": np.array(True),
            "index": np.array(index, np.int32),
            "checksum": np.array(zlib.crc32(data) if in_place else 0, np.uint32),
        }

    def _padding(self) -> dict[str, np.ndarray]:
        slots = self._options.max_boxes
        return {
            "image": np.zeros([0, 0, 3], np.uint8),
            "size": np.zeros([2], np.int32),
            "label": np.zeros([len(self._split.class_names)], np.int8),
            "boxes": np.zeros([slots, 4], np.float32),
            "box_label": np.full([slots], -1, np.int32),
            "mask": np.array(False),
            "index": np.array(-1, np.int32),
            "checksum": np.array(0, np.uint32),
        }


def stack_examples(
    examples: Sequence[dict[str, np.ndarray]], *, canvas_px: int
) -> dict[str, np.ndarray]:
    """Stacks examples, each image into the top left corner of a zero canvas.

    Args:
      examples: what `ExampleReader` gives.
      canvas_px: side of the canvas.

    Returns:
      A batch as the module `pipeline` describes it.
    """
    canvas = np.zeros([len(examples), canvas_px, canvas_px, 3], np.uint8)
    for place, example in zip(canvas, examples, strict=True):
        height, width = example["image"].shape[:2]
        place[:height, :width] = example["image"]
    others = [key for key in examples[0] if key != "image"]
    return {"image": canvas} | {key: np.stack([e[key] for e in examples]) for key in others}
