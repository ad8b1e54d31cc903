"""The embedded data set: scenes of several handwritten digits, made from scikit-learn's digits.

It needs no download and no licence, and it has what the method is about: several objects of
different classes in an image, off-centre, of different size and contrast, among fragments that
look like parts of them.
"""

import colorsys
import dataclasses
import io
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from oass_jax.data.progress import report_progress
from oass_jax.data.sources.scene_builder import SceneBuilder, scene

_NUM_SCENES = {"train": 4_000, "val": 1_000}
_SEED = 20_12
_SIDE_PX = 96
_VAL_SHARE_OF_DIGITS = 0.2
_MAX_DIGITS = 4
_DIGIT_PX = (20, 44)
_MAX_FRAGMENTS = 4
# Of the 8x8 cells of a digit, at its size: enough for a stroke, too little to read it.
_FRAGMENT_CELLS = 3
_CONTRAST = (0.25, 0.6)
# A box may lie under another one with this share of its area.
_MAX_OVERLAP = 0.1
_PLACING_ATTEMPTS = 20
# From this opacity on a pixel counts as the digit's.
_SOLID = 0.3
_JPEG_QUALITY = 92
_PALETTE = [0, 0, 0] + [
    round(255 * channel) for c in range(10) for channel in colorsys.hsv_to_rgb(c / 10, 1, 1)
]


@dataclasses.dataclass(frozen=True)
class DigitScene:
    """A composed scene.

    Attributes:
      image: uint8 `[96, 96, 3]`.
      mask: uint8 `[96, 96]`, 0 for background and fragments, digit + 1 elsewhere.
      boxes_px: int `[N, 4]` ymin, xmin, ymax, xmax around the solid part of each digit, N >= 1.
      labels: int `[N]` which digit.
    """

    image: np.ndarray
    mask: np.ndarray
    boxes_px: np.ndarray
    labels: np.ndarray


class DigitScenes(SceneBuilder):
    """4,000 training and 1,000 validation scenes of 96x96 px; `SceneBuilder` has the features.

    No handwriting of `train` is in `val`. Scene i of a split depends on nothing but its number.
    """

    VERSION = tfds.core.Version("1.0.0")
    DESCRIPTION = "Scenes of one to four handwritten digits on textured background."
    CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager  # nothing to download
        return {
            split: report_progress(self._generate_examples(split), what=split, total=count)
            for split, count in _NUM_SCENES.items()
        }

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        digits, classes = handwriting(split)
        for index in range(_NUM_SCENES[split]):
            composed = compose_scene(scene_rng(split, index), digits, classes)
            yield (
                index,
                scene(
                    image=_encode(Image.fromarray(composed.image), "JPEG"),
                    filename=f"{split}_{index:05d}.jpg",
                    boxes=composed.boxes_px / _SIDE_PX,
                    labels=composed.labels,
                    difficult=np.zeros(len(composed.labels), bool),
                    segmentation_mask=_encode(_palette_image(composed.mask), "PNG"),
                ),
            )


def handwriting(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The digits of one split; no digit is in both.

    Args:
      split: 'train' or 'val'.

    Returns:
      float32 `[N, 8, 8]` ink from 0 to 1, and int `[N]` which digit it is.
    """
    # Here, because it takes a second to import and every start of a run would pay for it.
    from sklearn.datasets import load_digits

    data = load_digits()
    # Shuffled, because the file's order repeats the ten digits.
    order = np.random.default_rng(_SEED).permutation(len(data.target))
    num_val = round(_VAL_SHARE_OF_DIGITS * len(order))
    chosen = order[:num_val] if split == "val" else order[num_val:]
    return (data.images[chosen] / 16).astype(np.float32), data.target[chosen]


def scene_rng(split: str, index: int) -> np.random.Generator:
    """The randomness of one scene, independent of every other scene."""
    return np.random.default_rng([_SEED, list(_NUM_SCENES).index(split), index])


def compose_scene(rng: np.random.Generator, digits: np.ndarray, classes: np.ndarray) -> DigitScene:
    """Composes a scene of one to four digits, and fragments of others.

    Args:
      rng: all its randomness.
      digits: float32 `[N, 8, 8]` ink from 0 to 1.
      classes: int `[N]` which digit each is.

    Returns:
      The scene. Every digit in it is whole, and at most slightly covered by another.
    """
    canvas = _background(rng)
    mask = np.zeros([_SIDE_PX, _SIDE_PX], np.uint8)
    for _ in range(rng.integers(_MAX_FRAGMENTS + 1)):
        ink = _fragment(rng, digits[rng.integers(len(digits))])
        _paint(canvas, ink, rng.integers(_SIDE_PX - np.array(ink.shape)), rng)

    boxes, labels = [], []
    for _ in range(rng.integers(1, _MAX_DIGITS + 1)):
        chosen = rng.integers(len(digits))
        ink = _enlarge(digits[chosen], rng.integers(_DIGIT_PX[0], _DIGIT_PX[1] + 1))
        solid = ink > _SOLID
        place = _find_place(rng, _bounds(solid), boxes, ink.shape[0])
        if place is None:
            continue
        corner_yx, box = place
        _paint(canvas, ink, corner_yx, rng)
        _window(mask, corner_yx, solid.shape)[solid] = classes[chosen] + 1
        boxes.append(box)
        labels.append(classes[chosen])

    image = np.round(canvas.clip(0, 1) * 255).astype(np.uint8)
    return DigitScene(image, mask, np.array(boxes), np.array(labels))


def _background(rng: np.random.Generator) -> np.ndarray:
    """float32 `[96, 96, 3]`: a colour with blotches of a random size and fine grain."""
    blotches = int(rng.integers(3, 25))
    coarse = rng.uniform(-1, 1, [blotches, blotches, 3]).astype(np.float32)
    texture = np.stack([_enlarge(coarse[..., c], _SIDE_PX) for c in range(3)], axis=-1)
    grain = rng.standard_normal([_SIDE_PX, _SIDE_PX, 1], np.float32)
    colour = rng.uniform(0.2, 0.8) + rng.uniform(-0.1, 0.1, 3).astype(np.float32)
    strength = rng.uniform(0.04, 0.15)
    return (colour + strength * texture + 0.03 * grain).astype(np.float32)


def _enlarge(values: np.ndarray, side_px: int) -> np.ndarray:
    """Smoothly enlarges a square float32 array to `[side_px, side_px]`."""
    side_px = int(side_px)
    image = Image.fromarray(values)
    return np.asarray(image.resize((side_px, side_px), Image.Resampling.BICUBIC))


def _fragment(rng: np.random.Generator, digit: np.ndarray) -> np.ndarray:
    """A few neighbouring cells of a digit, as large as they would be in it."""
    y, x = rng.integers(1, digit.shape[0] - _FRAGMENT_CELLS, size=2)
    cells = digit[y : y + _FRAGMENT_CELLS, x : x + _FRAGMENT_CELLS]
    # A margin without ink, so that the cut has no straight edge.
    cells = np.pad(cells, 1)
    zoom = rng.uniform(*_DIGIT_PX) / digit.shape[0]
    return _enlarge(cells, round(cells.shape[0] * zoom))


def _paint(
    canvas: np.ndarray, ink: np.ndarray, corner_yx: np.ndarray, rng: np.random.Generator
) -> None:
    """Paints ink in a random colour that is lighter or darker than what is below it."""
    window = _window(canvas, corner_yx, ink.shape)
    below = window.mean()
    contrast = rng.uniform(*_CONTRAST)
    # The direction with room for the contrast; where both have it, either.
    lighter = below < 0.5 if abs(below - 0.5) > 0.5 - contrast else rng.random() < 0.5
    colour = below + (contrast if lighter else -contrast) + rng.uniform(-0.1, 0.1, 3)
    opacity = ink.clip(0, 1)[..., None]
    window += opacity * (colour.astype(np.float32) - window)


def _find_place(
    rng: np.random.Generator, bounds: np.ndarray, boxes: list[np.ndarray], side_px: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """A place for a digit where it and the others stay visible.

    Args:
      rng: randomness.
      bounds: int `[4]` the solid part inside the digit's square.
      boxes: int `[4]` each, the boxes already there.
      side_px: of the digit's square.

    Returns:
      The corner (y, x) of the square and the box of the solid part, or None if none was found.
    """
    for _ in range(_PLACING_ATTEMPTS):
        corner_yx = rng.integers(_SIDE_PX - side_px + 1, size=2)
        box = bounds + np.tile(corner_yx, 2)
        if all(_overlap(box, other) <= _MAX_OVERLAP for other in boxes):
            return corner_yx, box
    return None


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Common area of two boxes over the area of the smaller one."""
    common = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    smaller = min(np.prod(a[2:] - a[:2]), np.prod(b[2:] - b[:2]))
    return float(np.prod(common.clip(0)) / smaller)


def _bounds(solid: np.ndarray) -> np.ndarray:
    """int `[4]` ymin, xmin, ymax, xmax of the pixels that are True."""
    y, x = np.nonzero(solid)
    return np.array([y.min(), x.min(), y.max() + 1, x.max() + 1])


def _window(array: np.ndarray, corner_yx: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    y, x = corner_yx
    return array[y : y + shape[0], x : x + shape[1]]


def _palette_image(mask: np.ndarray) -> Image.Image:
    image = Image.fromarray(mask)
    image.putpalette(_PALETTE)
    return image


def _encode(image: Image.Image, file_format: str) -> bytes:
    # Colour at full resolution, because the objects are small; PNG ignores both options.
    buffer = io.BytesIO()
    image.save(buffer, format=file_format, quality=_JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()
