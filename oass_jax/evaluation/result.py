"""What is predicted of one image: probabilities, labels and class maps, in the image's pixels."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from oass_jax.errors import UserError, nearest
from oass_jax.evaluation import overlay


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What is predicted of one image.

    Attributes:
      name: the path as it was given; of other images PIL's file name, or `image N`.
      probability: class -> probability, in the order of the classes.
      labels: the classes whose probability is at or above their threshold, most probable first.
      size: height and width of the upright image in pixels.
      maps: float32 `[C, h, w]`, raw class maps before any ReLU, in cells from the image's top left
        corner; the last ones may reach past its end. Their unit is that of logits: the mean over
        all cells of the network's square canvas, those beyond the image too, is the base logit of
        a class (of one scale; of `eval.scales` these are the maps of the one nearest 1).
      cell_px: height and width of a cell in pixels of the upright image.
      image: uint8 `[height, width, 3]`, the upright image as the network saw it: shrunk where it
        is larger than `eval.image_px`.
    """

    name: str
    probability: dict[str, float]
    labels: tuple[str, ...]
    size: tuple[int, int]
    maps: np.ndarray = dataclasses.field(repr=False)
    cell_px: tuple[float, float] = dataclasses.field(repr=False)
    image: np.ndarray = dataclasses.field(repr=False)

    def class_map(self, name: str, size: tuple[int, int] | None = None) -> np.ndarray:
        """The class map of a class, brought to the pixels of the upright image, linearly.

        Args:
          name: of the class.
          size: height and width of the image if it is resized; None for its own.

        Returns:
          float32 `[height, width]` in the unit of `maps`.

        Raises:
          UserError: there is no such class.
        """
        # Pixel y lies at cell (y + 0.5) / cell_px - 0.5.
        cells = self._map(name)
        height, width = np.minimum(np.array(self.size) / self.cell_px, cells.shape)
        resized = Image.fromarray(cells).resize(
            (size or self.size)[::-1], Image.Resampling.BILINEAR, box=(0, 0, width, height)
        )
        return np.asarray(resized)

    def keypoint(self, name: str) -> tuple[int, int]:
        """Where the class map of a class is highest: y and x of the cell's centre, in pixels.

        Args:
          name: of the class.

        Raises:
          UserError: there is no such class.
        """
        cells = self._map(name)
        cell_yx = np.unravel_index(cells.argmax(), cells.shape)
        centres = ((np.array(cell_yx) + 0.5) * self.cell_px).astype(int)
        y, x = np.minimum(centres, np.array(self.size) - 1).tolist()
        return y, x

    def overlay(self, name: str, *, finding: str = "predicted") -> Image.Image:
        """The class map of a class drawn over the image, see `evaluation.overlay`.

        Args:
          name: of the class.
          finding: what the prediction is, 'true', 'missed' or 'false', where that is known.

        Returns:
          RGB; the image as the network saw it, small ones enlarged, with a title on top.

        Raises:
          UserError: there is no such class.
        """
        base = overlay.enlarge(Image.fromarray(self.image))
        size = (base.height, base.width)
        return overlay.draw(
            base,
            self.class_map(name, size),
            name=name,
            probability=self.probability[name],
            keypoint_yx=(np.array(self.keypoint(name)) + 0.5) / self.size * size,
            finding=finding,
        )

    def _map(self, name: str) -> np.ndarray:
        names = list(self.probability)
        if name not in names:
            raise UserError(f"{name!r} is not a class: {nearest(str(name), names)}")
        return self.maps[names.index(name)]


class InputImage(NamedTuple):
    """An image as the network is to see it; the fields are those of `Result`."""

    name: str
    image: np.ndarray
    size: tuple[int, int]


def create_result(
    seen: InputImage,
    probabilities: np.ndarray,
    maps: np.ndarray,
    *,
    class_names: Sequence[str],
    threshold: np.ndarray,
    size_cells: np.ndarray,
) -> Result:
    """What is predicted of an image, from what the network computes.

    Args:
      seen: the image.
      probabilities: float64 `[C]`.
      maps: `[h, w, C]` float32, raw class maps of the canvas, the image at their top left.
      class_names: C names.
      threshold: float64 `[C]`, the probability from which a class is predicted.
      size_cells: height and width of the image in cells.
    """
    order = np.argsort(-probabilities, kind="stable")
    rows, columns = np.ceil(size_cells).astype(int)
    return Result(
        name=seen.name,
        probability=dict(zip(class_names, probabilities.tolist(), strict=True)),
        labels=tuple(class_names[c] for c in order if probabilities[c] >= threshold[c]),
        size=seen.size,
        maps=maps[:rows, :columns].transpose(2, 0, 1).copy(),  # the batch is not kept
        cell_px=tuple((seen.size / size_cells).tolist()),
        image=seen.image,
    )
