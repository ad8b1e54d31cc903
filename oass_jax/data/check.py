"""Reads and decodes every image of some splits, and reports what there is and what is wrong."""

import collections
import concurrent.futures
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from oass_jax.data.example import Split
from oass_jax.data.image_file import decode_rgb
from oass_jax.errors import UserError

_AHEAD = 64  # images that are read before the first of them is needed


class Image(NamedTuple):
    """What is found out about an image.

    Attributes:
      where: how an error names it.
      shape: height and width in pixels; None if it cannot be decoded.
      digest: of its pixels; empty if it cannot be decoded.
      num_objects: with a box.
      problem: why it cannot be decoded; empty if it can.
    """

    where: str
    shape: tuple[int, int] | None
    digest: bytes
    num_objects: int
    problem: str


class Report(NamedTuple):
    """What a check found.

    Attributes:
      lines: for people.
      problems: what has to be mended, a line each.
    """

    lines: list[str]
    problems: list[str]


def check_splits(
    splits: Sequence[Split],
    *,
    max_boxes: int,
    num_threads: int,
    track: Callable[[Iterable, Split], Iterable] = lambda images, split: images,
) -> Report:
    """Reads and decodes every image.

    Args:
      splits: of one data set, or of two with the same classes.
      max_boxes: the most objects an image may have.
      num_threads: that decode.
      track: passes the results of a split on and shows how far it is.
    """
    images = [list(track(_read_all(split, num_threads), split)) for split in splits]
    problems = [image.problem for found in images for image in found if image.problem]
    problems += [
        f"{image.where} has {image.num_objects} objects: set data.max_boxes to that or more, it is "
        f"{max_boxes}"
        for found in images
        for image in found
        if image.num_objects > max_boxes
    ]
    twice, leaked = _equal_images(splits, images)
    lines = [*dict.fromkeys(note for split in splits for note in split.notes)]
    lines += ["", *_split_table(splits, images), "", *_class_table(splits)]
    if twice:
        lines += ["", f"warning: {len(twice)} images are there twice in one split:"]
        lines += [f"  {pair}" for pair in twice]
    return Report(lines, problems + leaked)


def summarize(problems: Sequence[str]) -> list[str]:
    """The problems and how many there are, as lines."""
    if not problems:
        return ["no problems"]
    counted = f"{len(problems)} problem" + "s" * (len(problems) > 1)
    return [f"{counted}:", *(f"  {problem}" for problem in problems)]


def _read_all(split: Split, num_threads: int) -> Iterator[Image]:
    """Reads the images of a split in its order, in threads."""
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        waiting = collections.deque()
        for index in range(len(split)):
            waiting.append(pool.submit(_read, split, index))
            if len(waiting) == _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _read(split: Split, index: int) -> Image:
    record = split.source[index]
    where, num_objects = split.where(record), len(record["objects"]["bbox"])
    try:
        pixels = decode_rgb(split.read_image(record), name=where, fit_px=sys.maxsize)
    except UserError as error:
        return Image(where, None, b"", num_objects, str(error))
    shape = pixels.shape[:2]
    digest = hashlib.blake2b(repr(shape).encode() + pixels.tobytes(), digest_size=16).digest()
    return Image(where, shape, digest, num_objects, "")


def _equal_images(
    splits: Sequence[Split], images: Sequence[list[Image]]
) -> tuple[list[str], list[str]]:
    """Images of equal pixels: those in one split, and those in two, a line each."""
    first: dict[bytes, tuple[Split, str]] = {}
    twice, leaked = [], []
    for split, found in zip(splits, images, strict=True):
        for image in found:
            if not image.digest:
                continue
            other_split, other = first.setdefault(image.digest, (split, image.where))
            if other_split is not split:
                leaked.append(
                    f"{image.where} of {split.split} is the same image as {other} of "
                    f"{other_split.split}: remove one"
                )
            elif other != image.where:
                twice.append(f"{image.where} and {other}")
    return twice, leaked


def _split_table(splits: Sequence[Split], images: Sequence[list[Image]]) -> Iterator[str]:
    width = max(len("split"), *(len(split.split) for split in splits))
    yield f"{'split':<{width}}  images  labels an image  without  long side, px (min, median, max)"
    for split, found in zip(splits, images, strict=True):
        count = (split.labels() == 1).sum(axis=1)
        sides = [max(image.shape) for image in found if image.shape]
        px = "  ".join(f"{f(sides):.0f}" for f in (np.min, np.median, np.max)) if sides else "-"
        yield (
            f"{split.split:<{width}}  {len(split):>6,}  {count.mean():>15.2f}  "
            f"{(count == 0).sum():>7,}  {px}"
        )


def _class_table(splits: Sequence[Split]) -> Iterator[str]:
    """Images with each class; those of which it is not known after a +."""
    names = splits[0].class_names
    labels = [split.labels() for split in splits]
    cells = [[_count(label[:, c]) for label in labels] for c in range(len(names))]
    width = max(map(len, ("class", *names)))
    columns = [max(len(s.split), *(len(row[i]) for row in cells)) for i, s in enumerate(splits)]
    header = "  ".join(f"{s.split:>{w}}" for s, w in zip(splits, columns, strict=True))
    yield f"{'class':<{width}}  {header}"
    for name, row in zip(names, cells, strict=True):
        numbers = "  ".join(f"{cell:>{w}}" for cell, w in zip(row, columns, strict=True))
        yield f"{name:<{width}}  {numbers}"


def _count(label: np.ndarray) -> str:
    unknown = int((label == -1).sum())
    return f"{int((label == 1).sum()):,}" + f" +{unknown:,} ignored" * bool(unknown)
