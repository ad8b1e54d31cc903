"""A record as it is stored -> arrays of one image; a list of them -> a batch."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from oass_jax.data.image_file import decode_rgb
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


@dataclasses.dataclass(frozen=True)
class Split:
    """An opened split.

    Attributes:
      name: of the data set, such as 'voc/2012'.
      version: of the data set, such as '1.0.0'.
      split: such as 'train_aug'; a slice such as 'val[:100]' works too.
      class_names: in the order of the labels.
      sources: file name -> fingerprint of what the data set was prepared from.
      source: random access to the records, each a dictionary of the features of
        `scene_builder.SceneBuilder`; image, file name and mask are bytes.
      challenge: such as 'VOC2012', if its server takes result files as `evaluation.voc_server`
        writes them.
    """

    name: str
    version: str
    split: str
    class_names: tuple[str, ...]
    sources: dict[str, str]
    source: Sequence[dict]
    challenge: str | None = None

    def __len__(self) -> int:
        return len(self.source)

    def filename(self, index: int) -> str:
        """The file name of a record."""
        return self.source[int(index)]["image/filename"].decode()

    def has_labels(self) -> bool:
        """Whether any image has an object; VOC2012's test split, with secret labels, has none.

        As a rule the first record answers; only a split without labels is read to its end.
        """
        return any(len(record["objects"]["label"]) for record in self.source)

    def labels(self) -> np.ndarray:
        """The classes of every record, difficult objects too: int8 `[N, C]`, 1 or 0.

        Reads every record, but decodes no image.
        """
        label = np.zeros([len(self), len(self.class_names)], np.int8)
        for row, record in zip(label, self.source, strict=True):
            row[record["labels"]] = 1
        return label


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
            return self._example(np.zeros([0, 0, 3], np.uint8), [], [], [], index=-1)
        if self._cached is None:
            return self._read(index)
        if index not in self._cached:
            self._cached[index] = self._read(index)
        return self._cached[index]

    def _read(self, index: int) -> dict[str, np.ndarray]:
        record = self._split.source[index]
        where = f"{record['image/filename'].decode()} of {self._split.name} {self._split.split}"
        objects = record["objects"]
        max_boxes = self._options.max_boxes
        if len(objects["label"]) > max_boxes:
            raise UserError(
                f"{where} has {len(objects['label'])} objects: set data.max_boxes to that or more, "
                f"it is {max_boxes}"
            )
        image = decode_rgb(record["image"], name=where, fit_px=self._options.canvas_px)
        return self._example(
            image, objects["bbox"], objects["label"], objects["is_difficult"], index=index
        )

    def _example(
        self, image: np.ndarray, boxes: list, labels: list, difficult: list, *, index: int
    ) -> dict[str, np.ndarray]:
        num = len(labels)
        label = np.zeros([len(self._split.class_names)], np.int8)
        slots = np.zeros([self._options.max_boxes, 4], np.float32)
        slot_label = np.full([self._options.max_boxes], -1, np.int32)
        if num:
            labels, difficult = np.asarray(labels), np.asarray(difficult)
            # In this order, so that one object that is not difficult decides.
            label[labels[difficult]] = _LABEL_OF_DIFFICULT[self._options.difficult]
            label[labels[~difficult]] = 1
            slots[:num] = boxes
            slot_label[:num] = labels
        return {
            "image": image,
            "size": np.array(image.shape[:2], np.int32),
            "label": label,
            "boxes": slots,
            "box_label": slot_label,
            "mask": np.array(index >= 0),
            "index": np.array(index, np.int32),
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
