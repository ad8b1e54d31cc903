"""A list of image files with labels -> a split whose files are read in place.

What the lists of all formats have in common: files are found and compared, classes numbered, and
what is wrong is reported by the line of the list.
"""

import collections
import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from oass_jax.data.example import Record, Split
from oass_jax.data.image_file import SUFFIXES
from oass_jax.data.sources import Location, list_splits
from oass_jax.data.sources.image_list import (
    ALL,
    ImageList,
    ListedImage,
    ListError,
    checksum,
    shorten,
)
from oass_jax.errors import UserError, nearest


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
        size = {} if image.size is None else {"listed_size": image.size}
        return size | {
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
    for name_of_class in names:
        if not name_of_class.isprintable():
            raise UserError(
                f"{image_list.path}: the class {name_of_class!r} holds a line break or another "
                "character that cannot be printed: rename it"
            )
    if len(names) == 1:
        notes.append(f"warning: there is one class only, {names[0]}")
    splits, split_list, more_notes = list_splits.divide(image_list, names, location, split)
    base = split.partition("[")[0]
    if base not in splits:
        raise UserError(
            f"{image_list.path} has no split {base!r}: there are {', '.join(splits)}; name one as "
            "--config.data.split or --config.eval.split"
        )
    chosen = [splits[base][i] for i in list_splits.take_slice(split, len(splits[base]))]
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
        named = " and the name of the split, --config.eval.split" * (path != location.path)
        raise UserError(f"there is no {path}: check --config.data.path{named}")
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
        path, found = _find(image_dir / image.filename, folders)
        if not found and "\\" in image.filename:  # as Windows writes paths
            path, found = _find(image_dir / image.filename.replace("\\", "/"), folders)
        if len(found) != 1:
            missing += not found
            problems.append(f"{image.where}: {_why_not_one(path, found)}")
            continue
        path = path.with_name(found[0])
        if path in first_use:
            first = first_use[path]
            problems.append(
                f"{image.where}: {image.filename} is listed twice, see {first}: list it once, with "
                "all its labels"
            )
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
        self._by_lower = collections.defaultdict(list)
        if path.is_dir():
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_file():
                        self._sizes[entry.name] = entry.stat().st_size
                        self._by_lower[_composed(entry.name).lower()].append(entry.name)
                        stem, suffix = os.path.splitext(entry.name)
                        if suffix.lower() in SUFFIXES:
                            self._by_stem[_composed(stem)].append(entry.name)

    def find(self, name: str) -> list[str]:
        """The files that a name may be: itself, in other case, or those it lacks the suffix of."""
        if name in self._sizes:
            return [name]
        name = _composed(name)
        return sorted(self._by_lower[name.lower()] or self._by_stem[name])

    def size(self, name: str) -> int:
        return self._sizes[name]


def _find(path: Path, folders: dict[Path, _Folder]) -> tuple[Path, list[str]]:
    """A path, and the files in its folder that it may be; `folders` are those listed so far."""
    if path.parent not in folders:
        folders[path.parent] = _Folder(path.parent)
    return path, folders[path.parent].find(path.name)


def _composed(name: str) -> str:
    """A name with ä as one character, which a Mac's files may have as two."""
    return unicodedata.normalize("NFC", name)


def _why_not_one(path: Path, found: Sequence[str]) -> str:
    if found:
        return f"{path} may be {' or '.join(found)}: add the suffix, or rename one"
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
