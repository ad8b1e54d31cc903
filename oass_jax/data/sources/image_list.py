"""What a file says of images, whatever its format: the images it names, and its mistakes."""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from oass_jax.errors import UserError

TRAIN, VAL, TEST, ALL = "train", "val", "test", "all"
# What files call them, in lower case.
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev"), VAL),
    **dict.fromkeys(("test", "testing"), TEST),
}
_MAX_NAMED = 5  # classes or columns that a line names


class ListError(UserError):
    """A list with mistakes: names the first.

    Attributes:
      problems: all of them, a line each.
    """

    def __init__(self, problems: Sequence[str]):
        """Takes one line or more."""
        more = len(problems) - 1
        super().__init__(problems[0] + f" (and {more} more: --mode=check lists them)" * bool(more))
        self.problems = tuple(problems)


@dataclasses.dataclass(frozen=True)
class Object:
    """An object with a box.

    Attributes:
      label: its class.
      box: ymin, xmin, ymax, xmax in [0, 1] of the image.
      is_difficult: hard to recognise, or a crowd.
    """

    label: str
    box: tuple[float, float, float, float]
    is_difficult: bool


@dataclasses.dataclass(frozen=True)
class ListedImage:
    """An image as a list names it.

    Attributes:
      filename: relative to the folder of the images.
      where: the place in the list, `labels.csv, line 3`.
      labels: the classes that are present, each once.
      ignored: the classes of which it is not known.
      objects: those with boxes; their classes are among `labels`.
      split: that the list says it is in; None where it does not say.
      size: height and width in pixels that boxes were given in; None where there are none.
    """

    filename: str
    where: str
    labels: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    objects: tuple[Object, ...] = ()
    split: str | None = None
    size: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class ImageList:
    """What a file says of images.

    Attributes:
      path: of the file.
      image_dir: what file names are relative to, if nothing else is set.
      checksum: of its content.
      images: in its order.
      class_names: in the order of the labels.
      has_boxes: whether objects come with boxes.
      notes: how it was understood, a line each.
    """

    path: Path
    image_dir: Path
    checksum: str
    images: Sequence[ListedImage]
    class_names: tuple[str, ...]
    has_boxes: bool
    notes: tuple[str, ...]


def read_text(path: Path) -> str:
    """The text of a list: UTF-8, or UTF-16 with a byte-order mark.

    Raises:
      UserError: it cannot be read, or is something else.
    """
    data = read_bytes(path)
    is_utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        return data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path.name}, line {line}, is not UTF-8: save the file with that encoding"
        ) from error


def is_utf8(name: str) -> bool:
    """Whether the name of a file, as Python reads it, is valid UTF-8."""
    return name.encode(errors="ignore").decode() == name


def read_bytes(path: Path) -> bytes:
    """The content of a list.

    Raises:
      UserError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def checksum(data: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def shorten(names: Iterable[str]) -> str:
    """The first names of many, and how many there are beside them."""
    names = list(names)
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + f" and {more} more" * (more > 0)
