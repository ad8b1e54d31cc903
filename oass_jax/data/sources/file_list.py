"""A list of image files with labels -> a split whose files are read in place.

What the lists of all formats have in common: files are found and compared, images divided into
splits, classes numbered, and what is wrong is reported by the line of the list.
"""

import collections
import csv
import dataclasses
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from oass_jax.data.example import Record, Split
from oass_jax.data.image_file import SUFFIXES
from oass_jax.data.sources import Location
from oass_jax.errors import UserError, nearest

TRAIN, VAL, TEST, ALL = "train", "val", "test", "all"
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
    """

    filename: str
    where: str
    labels: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    objects: tuple[Object, ...] = ()
    split: str | None = None


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


class FileRecords(Sequence[Record]):
    """The records of listed images; their files are read when they are asked for."""

    def __init__(
        self, images: Sequence[ListedImage], paths: Sequence[Path], class_names: Sequence[str]
    ):
        """Takes images, their files, and all classes there are."""
        self._images, self._paths = images, paths
        self._number = {name: number for number, name in enumerate(class_names)}

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Record:
        image = self._images[index]
        return {
            "image": self._paths[index],
            "image/filename": image.filename.encode(),
            "objects": {
                "bbox": [o.box for o in image.objects],
                "label": [self._number[o.label] for o in image.objects],
                "is_difficult": [o.is_difficult for o in image.objects],
            },
            "labels": sorted(self._number[label] for label in image.labels),
            "segmentation_mask": b"",
            "ignored": [self._number[label] for label in image.ignored],
            "where": f"{image.filename} ({image.where})",
        }


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


def open_split(
    read_fn: Callable[[Path], ImageList],
    name: str,
    split: str,
    location: Location,
    *,
    class_names: tuple[str, ...] | None,
) -> Split:
    """Opens a split of a list of any format; see `pipeline.open_split`.

    Args:
      read_fn: path of a list -> what it says; the images are not looked for.
      name: of the data set.
      split: such as 'train', or a slice of it such as 'train[:100]'.
      location: `path`, `image_dir`, `val_fraction`, `split_seed` and `split_list` are read.
      class_names: the classes there are; None for those of the list.

    Raises:
      UserError: there is no such list, folder or split.
      ListError: what `read_fn` raises; a file is missing or listed twice; or a class is none of
        `class_names`.
    """
    image_list = read_fn(_list_path(location, split, dataset=name))
    image_dir = _image_dir(location, image_list.image_dir, split)
    paths, sizes = _find_files(image_list, image_dir)
    if class_names is not None:
        _refuse_unknown_classes(image_list, class_names)
    names, notes = list(image_list.class_names if class_names is None else class_names), []
    if not names:
        raise UserError(f"{image_list.path} holds no label: there is nothing to learn")
    if len(names) == 1:
        notes.append(f"warning: there is one class only, {names[0]}")
    splits, split_list, more_notes = _divide(image_list, names, location, split)
    base = split.partition("[")[0]
    if base not in splits:
        raise UserError(f"{image_list.path} has no split {base!r}: there are {', '.join(splits)}")
    chosen = [splits[base][i] for i in _slice(split, len(splits[base]))]
    images = [image_list.images[i] for i in chosen]
    contents = "".join(f"{image.filename}\n" for image in images)
    return Split(
        name=name,
        version="1",
        split=split,
        class_names=tuple(names),
        sources={
            image_list.path.name: image_list.checksum,
            "sizes": checksum(np.array([sizes[i] for i in chosen], np.int64).tobytes()),
            "images": checksum(contents.encode()),
        },
        source=FileRecords(images, [paths[i] for i in chosen], names),
        has_boxes=image_list.has_boxes,
        siblings=tuple(s for s in splits if s != ALL),
        split_list=split_list,
        notes=(*image_list.notes, *notes, *more_notes, *_label_notes(images, names, split)),
    )


def _list_path(location: Location, split: str, *, dataset: str) -> Path:
    if location.path is None:
        raise UserError(f"{dataset} needs the path of its list: set --config.data.path")
    path = _of_split(location.path, split)
    if not path.exists():
        raise UserError(f"there is no {path}: check --config.data.path")
    return path


def _image_dir(location: Location, default: Path, split: str) -> Path:
    folder = default if location.image_dir is None else _of_split(location.image_dir, split)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: check --config.data.image_dir")
    return folder


def _of_split(path: Path, split: str) -> Path:
    return Path(str(path).replace("{split}", split.partition("[")[0]))


def _find_files(image_list: ImageList, image_dir: Path) -> tuple[list[Path], list[int]]:
    """The file of every image and its size in bytes; a name without a suffix gets that of a file.

    Raises:
      ListError: a file is missing, or listed twice.
    """
    folders: dict[Path, _Folder] = {}
    paths, sizes, problems, missing = [], [], [], 0
    first_use: dict[Path, str] = {}
    for image in image_list.images:
        path = image_dir / Path(image.filename).expanduser()
        if path.parent not in folders:
            folders[path.parent] = _Folder(path.parent)
        found = folders[path.parent].find(path.name)
        if len(found) != 1:
            missing += not found
            problems.append(f"{image.where}: {_why_not_one(path, found)}")
            continue
        path = path.with_name(found[0])
        if path in first_use:
            first = first_use[path]
            problems.append(f"{image.where}: {image.filename} is listed twice, see {first}")
        first_use.setdefault(path, image.where)
        paths.append(path)
        sizes.append(folders[path.parent].size(found[0]))
    if missing == len(image_list.images):
        raise UserError(
            f"none of the {missing} images of {image_list.path} is in {image_dir}, such as "
            f"{image_list.images[0].filename}: name their folder as --config.data.image_dir"
        )
    if problems:
        raise ListError(problems)
    return paths, sizes


class _Folder:
    """The files of a folder, listed once."""

    def __init__(self, path: Path):
        self._sizes: dict[str, int] = {}
        self._by_stem = collections.defaultdict(list)
        if path.is_dir():
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_file():
                        self._sizes[entry.name] = entry.stat().st_size
                        stem, suffix = os.path.splitext(entry.name)
                        if suffix.lower() in SUFFIXES:
                            self._by_stem[stem].append(entry.name)

    def find(self, name: str) -> list[str]:
        """The files that a name may be: itself, or those it lacks the suffix of."""
        return [name] if name in self._sizes else sorted(self._by_stem.get(name, ()))

    def size(self, name: str) -> int:
        return self._sizes[name]


def _why_not_one(path: Path, found: Sequence[str]) -> str:
    if found:
        return f"{path} may be {' or '.join(found)}: add the suffix"
    return f"there is no image {path}"


def _refuse_unknown_classes(image_list: ImageList, class_names: Sequence[str]) -> None:
    problems = []
    for image in image_list.images:
        for label in (*image.labels, *image.ignored):
            if label not in class_names:
                problems.append(
                    f"{image.where}: {label!r} is none of the {len(class_names)} classes: "
                    f"{nearest(label, class_names)}"
                )
    if problems:
        raise ListError(problems)


def _divide(
    image_list: ImageList, class_names: Sequence[str], location: Location, split: str
) -> tuple[dict[str, list[int]], str, list[str]]:
    """Split -> images, what to keep of a choice that was made here, and notes."""
    images = image_list.images
    everything = {ALL: list(range(len(images)))}
    base = split.partition("[")[0]
    if "{split}" in str(location.path):
        return {base: everything[ALL]}, "", []
    if any(image.split for image in images):
        splits = _by_name(image.split for image in images)
        return splits | everything, "", []
    if base == ALL:
        return everything, "", []
    kept = _read_split_list(location.split_list)
    if kept:
        splits = _by_name(kept.get(image.filename) for image in images)
        strangers = [image.filename for image in images if image.filename not in kept]
        notes = []
        if strangers:
            notes.append(
                f"warning: {len(strangers)} images of {image_list.path} are in no split of "
                f"{location.split_list}, such as {strangers[0]}: only the split 'all' has them"
            )
        return splits | everything, "", notes
    is_val = _stratify(images, class_names, location.val_fraction, location.split_seed)
    names = [VAL if held_out else TRAIN for held_out in is_val]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "split"])
    writer.writerows((image.filename, name) for image, name in zip(images, names, strict=True))
    notes = [
        f"{image_list.path} does not say which images are for validation: {int(is_val.sum())} of "
        f"{len(images)} were drawn, stratified by label (data.val_fraction, data.split_seed)"
    ]
    return _by_name(names) | everything, text.getvalue(), notes


def _by_name(names: Iterable[str | None]) -> dict[str, list[int]]:
    splits = collections.defaultdict(list)
    for index, name in enumerate(names):
        if name is not None:
            splits[name].append(index)
    return dict(splits)


def _read_split_list(path: Path | None) -> Mapping[str, str]:
    if path is None or not path.is_file():
        return {}
    rows = list(csv.reader(io.StringIO(read_text(path))))
    if not rows or any(len(row) != 2 or row[1] not in (TRAIN, VAL) for row in rows[1:]):
        raise UserError(f"{path} is damaged: it lists image and split, train or val")
    return dict(rows[1:])


def _stratify(
    images: Sequence[ListedImage], class_names: Sequence[str], val_fraction: float, seed: int
) -> np.ndarray:
    """Which images are for validation: bool `[N]`, with the share of each class as even as can be.

    Raises:
      UserError: too few images for both splits.
    """
    from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit  # imports scikit-learn

    num_val = round(val_fraction * len(images))
    impossible = UserError(
        f"{len(images)} images cannot be divided with data.val_fraction={val_fraction}: both "
        "splits need one at least"
    )
    if not 0 < num_val < len(images):
        raise impossible
    number = {name: c for c, name in enumerate(class_names)}
    label = np.zeros([len(images), len(class_names)], np.int8)
    for row, image in zip(label, images, strict=True):
        row[[number[name] for name in image.labels]] = 1
    splitter = MultilabelStratifiedShuffleSplit(
        n_splits=1, test_size=num_val, train_size=len(images) - num_val, random_state=seed
    )
    ((_, held_out),) = splitter.split(label, label)
    is_val = np.zeros([len(images)], bool)
    is_val[held_out] = True
    if is_val.all() or not is_val.any():  # it meets the shares of the labels, and the size nearly
        raise impossible
    return is_val


def _slice(split: str, length: int) -> Sequence[int]:
    """The numbers of the images of a slice such as `val[:100]`."""
    base, bracket, _ = split.partition("[")
    if not bracket:
        return range(length)
    import tensorflow_datasets as tfds  # which reads slices of every other data set

    # Not by its own name: 'all' is a word of tfds.
    info = tfds.core.SplitInfo(
        name="list", shard_lengths=[length], num_bytes=0, filename_template=None
    )
    try:
        instruction = tfds.core.ReadInstruction.from_spec("list" + split.removeprefix(base))
        (part,) = instruction.to_absolute({"list": info})
    except (ValueError, AssertionError) as error:
        raise UserError(
            f"{split!r} is no slice: write it as {base}[:100] or {base}[10%:]"
        ) from error
    return range(length)[part.from_ : part.to]


def _label_notes(
    images: Sequence[ListedImage], class_names: Sequence[str], split: str
) -> Iterator[str]:
    """What one can live with, in a line each."""
    present = {label for image in images for label in image.labels}
    if absent := [name for name in class_names if name not in present]:
        yield f"warning: {split} has no positive of {len(absent)} classes: {shorten(absent)}"
    everywhere = [
        name
        for name in present
        if all(name in image.labels or name in image.ignored for image in images)
    ]
    if everywhere:
        yield f"warning: {split} has no negative of {shorten(sorted(everywhere))}"
    if without := [image.where for image in images if not image.labels]:
        yield f"{split}: {len(without)} of {len(images)} images have no label, such as {without[0]}"
