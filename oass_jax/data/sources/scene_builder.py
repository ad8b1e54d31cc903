"""What every data set of this project looks like, whatever its images are."""

import abc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds


class SceneBuilder(tfds.core.GeneratorBasedBuilder, abc.ABC):
    """A tfds data set of images with several labelled objects each.

    Features, in the order in which a list names the images:
      image: the bytes of the original file.
      image/filename: its name, unique in the split.
      objects: bbox (ymin, xmin, ymax, xmax in [0, 1] of the upright image), label, is_difficult.
      labels: the classes of the objects, difficult ones too, ascending, each once.
      segmentation_mask: the bytes of a PNG with 0 for background and class + 1, empty where there
        is none. Its pixels are those of the stored image, before any EXIF orientation.
    """

    CLASS_NAMES: ClassVar[tuple[str, ...]]
    DESCRIPTION: ClassVar[str]

    @property
    def challenge(self) -> str | None:
        """The challenge whose server takes predictions of this data set; see `example.Split`."""
        return None

    def sources(self, manual_dir: Path) -> dict[str, str]:
        """Fingerprints of the files in a folder that this data set would be made from.

        Args:
          manual_dir: the folder a user gave.

        Returns:
          File name -> fingerprint of its content; empty if there are none of this data set.
        """
        del manual_dir
        return {}

    def record_sources(self, sources: Mapping[str, str]) -> None:
        """Stores with the prepared data what it was made from."""
        self.info.metadata["sources"] = dict(sources)

    @property
    def recorded_sources(self) -> dict[str, str]:
        """What the prepared data was made from: file name, or URL if downloaded -> fingerprint."""
        return self.info.metadata["sources"]

    def _info(self) -> tfds.core.DatasetInfo:
        label = tfds.features.ClassLabel(names=self.CLASS_NAMES)
        features = {
            "image": tfds.features.Image(),
            "image/filename": tfds.features.Text(),
            "objects": tfds.features.Sequence(
                {
                    "bbox": tfds.features.BBoxFeature(),
                    "label": label,
                    "is_difficult": np.bool_,
                }
            ),
            "labels": tfds.features.Sequence(label),
            # Not an Image: that one cannot be empty.
            "segmentation_mask": tfds.features.Tensor(shape=(), dtype=np.object_),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(sources={}),
            # The order of the list is the order of the records, so results are easy to compare.
            disable_shuffling=True,
        )


def scene(
    *,
    image: bytes,
    filename: str,
    boxes: np.ndarray,
    labels: Sequence[int],
    difficult: np.ndarray,
    segmentation_mask: bytes,
) -> dict:
    """One example as `SceneBuilder` stores it.

    Args:
      image: bytes of the image file.
      filename: its name.
      boxes: `[N, 4]` ymin, xmin, ymax, xmax in [0, 1].
      labels: `[N]` class of each object.
      difficult: bool `[N]`.
      segmentation_mask: bytes of a PNG, or empty.

    Returns:
      The feature dictionary.
    """
    objects = [
        {"bbox": tfds.features.BBox(*map(float, box)), "label": int(label), "is_difficult": bool(d)}
        for box, label, d in zip(boxes, labels, difficult, strict=True)
    ]
    return {
        "image": image,
        "image/filename": filename,
        "objects": objects,
        "labels": sorted({int(label) for label in labels}),
        "segmentation_mask": segmentation_mask,
    }
