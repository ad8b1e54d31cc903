"""The segmentation masks of a split, turned as a person sees the images."""

import numpy as np

from oass_jax.data.example import Split
from oass_jax.data.image_file import decode_mask, read_header
from oass_jax.errors import UserError

VOID = 255


class Masks:
    """What is known of the masks of a split before any is decoded, and their pixels on demand.

    Attributes:
      size: int32 `[N, 2]`, height and width of each mask in pixels, and of the upright image
        where there is none.
      present: bool `[N]`, whether the image has one.
      max_labels: the largest number of labels of an image, difficult ones too.
    """

    def __init__(self, split: Split):
        """Reads the headers of all images and masks of a split.

        Raises:
          UserError: a file is no image.
        """
        self._split = split
        self.size = np.zeros([len(split), 2], np.int32)
        self.present = np.zeros([len(split)], bool)
        self.max_labels = 0
        for index, record in enumerate(split.source):
            name, mask = split.where(record), record["segmentation_mask"]
            height, width, orientation = read_header(split.read_image(record), name=name)
            if mask:
                height, width, _ = read_header(mask, name=f"the mask of {name}")
            self.size[index] = (height, width) if orientation < 5 else (width, height)
            self.present[index] = bool(mask)
            self.max_labels = max(self.max_labels, len(record["labels"]))

    def read(self, index: int) -> np.ndarray:
        """The mask of a record that has one.

        Returns:
          uint8 `size[index]`: 0 for background, class + 1, 255 for void.

        Raises:
          UserError: it is damaged, or holds a value that is none of these.
        """
        record = self._split.source[index]
        where = self._split.where(record)
        name = f"the mask of {where}"
        _, _, orientation = read_header(self._split.read_image(record), name=where)
        mask = decode_mask(record["segmentation_mask"], name=name, orientation=orientation)
        num_classes = len(self._split.class_names)
        unknown = mask[(mask > num_classes) & (mask != VOID)]
        if unknown.size:
            raise UserError(
                f"{name} holds the value {unknown[0]}, but there are only {num_classes} classes "
                f"(1 to {num_classes}), background (0) and void ({VOID}): prepare the data again"
            )
        return mask
