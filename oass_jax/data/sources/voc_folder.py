"""`voc_folder`: a folder in the layout of PASCAL VOC, with classes of any name.

`JPEGImages/` holds the images and `Annotations/` an XML file for each, with its `<size>`; where
`ImageSets/Main/` has lists, such as `train.txt`, these are the splits. Both may have folders below
them. labelImg, CVAT and others write it.
"""

import collections
import functools
import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from oass_jax.data.image_file import SUFFIXES
from oass_jax.data.sources import file_list
from oass_jax.data.sources.image_list import (
    SPLIT_WORDS,
    TRAIN,
    VAL,
    ImageList,
    ListedImage,
    ListError,
    Object,
    is_utf8,
    read_bytes,
    read_text,
    shorten,
)
from oass_jax.data.sources.voc_annotation import parse_annotation
from oass_jax.errors import UserError

_ANNOTATIONS, _IMAGES, _LISTS = "Annotations", "JPEGImages", "ImageSets/Main"
_TRAINVAL = "trainval"  # no split of its own, unless there is only another beside it
# VOC's lists of one class, `cat_train.txt`, and CVAT's of all that has no split.
_NO_SPLIT = re.compile(rf".*_(train|val|{_TRAINVAL}|test)|default")


class _Lists(NamedTuple):
    """What the lists of a folder say.

    Attributes:
      splits: image id -> its split.
      unread: names of other lists.
    """

    splits: Mapping[str, str]
    unread: list[str]


def read(path: Path) -> ImageList:
    """Reads the annotations and lists of a folder; its images are not looked for.

    Raises:
      UserError: it is no such folder.
      ListError: annotations or lists are wrong.
    """
    files, there = (
        dict(_files(path / folder, suffixes))
        for folder, suffixes in ((_ANNOTATIONS, (".xml",)), (_IMAGES, SUFFIXES))
    )
    if not files:
        raise UserError(f"{path} has no {_ANNOTATIONS}/*.xml: name the folder that holds them")
    # As in a backup: of those at the top it is an error.
    imageless = [name for name in files if "/" in name and there and name not in there]
    for name in imageless:
        del files[name]
    splits, unread = _read_lists(path, files)
    digest = hashlib.sha256()
    images, problems = [], []
    for image_id, file in files.items():
        if not is_utf8(image_id):
            problems.append(f"the name {image_id + file.suffix!a} is not UTF-8: rename it")
            continue
        data = read_bytes(file)
        digest.update(f"{image_id}{file.suffix}".encode() + data)
        try:
            images.append(_image(image_id, file, data, splits.get(image_id)))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise ListError(problems)
    digest.update(repr(sorted(splits.items())).encode())
    class_names = sorted({label for image in images for label in image.labels})
    listed = ", ".join(sorted(set(splits.values()))) or "none"
    note = f"{path}: {len(images)} annotations of {len(class_names)} classes; lists: {listed}"
    if unread:
        note += f"; not read: {shorten(unread)}"
    notes = [note]
    if imageless:
        notes.append(
            f"warning: {len(imageless)} annotations in folders below {_ANNOTATIONS} have no image "
            f"and are not read, such as {imageless[0]}"
        )
    if without := [name for name in there if name not in files]:
        notes.append(
            f"warning: {len(without)} images have no annotation and are not read, such as "
            f"{without[0]}: one without an <object> says that nothing is there"
        )
    return ImageList(
        path=path,
        image_dir=path / _IMAGES,
        checksum=digest.hexdigest(),
        images=images,
        class_names=tuple(class_names),
        has_boxes=True,
        notes=tuple(notes),
    )


def _files(folder: Path, suffixes: Collection[str]) -> Iterator[tuple[str, Path]]:
    """The files below a folder by their names relative to it, without suffix, in order."""
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        is_hidden = any(part.startswith(".") for part in name.parts)
        if file.suffix.lower() in suffixes and not is_hidden and file.is_file():
            yield name.with_suffix("").as_posix(), file


def _image(image_id: str, file: Path, data: bytes, split: str | None) -> ListedImage:
    where = f"{_ANNOTATIONS}/{image_id}{file.suffix}"
    annotation = parse_annotation(data, name=where)
    labels = annotation.labels
    objects = zip(labels, annotation.boxes.tolist(), annotation.difficult.tolist(), strict=True)
    return ListedImage(
        filename=image_id,
        where=where,
        labels=tuple(dict.fromkeys(labels)),
        objects=tuple(Object(label, tuple(box), difficult) for label, box, difficult in objects),
        split=split,
        size=annotation.size,
    )


def _read_lists(path: Path, known: Collection[str]) -> _Lists:
    """Reads which image is in which split.

    Args:
      path: of the folder.
      known: ids that have an annotation, which may hold spaces.

    Raises:
      ListError: an image is in two splits, in one twice, or has no annotation.
    """
    lists = sorted((path / _LISTS).glob("*.txt"))
    # The plain name comes first where there are others.
    lists.sort(key=lambda file: file.stem not in SPLIT_WORDS.values())
    files: dict[str, Path] = {}
    trainval, unread, problems = None, [], []
    for file in lists:
        word = file.stem.lower()
        split = SPLIT_WORDS.get(word)
        if split and split not in files:
            files[split] = file
        elif word == _TRAINVAL:
            trainval = file
        elif split or not _NO_SPLIT.fullmatch(word):
            unread.append(file.name)
    if trainval and files and not files.keys() & {TRAIN, VAL}:
        files[TRAIN] = trainval
    splits: dict[str, str] = {}
    for split, file in files.items():
        lines = filter(None, map(str.strip, read_text(file).splitlines()))
        # VOC's lists may have a number behind the id.
        ids = [line if line in known else re.sub(r"\s+(-1|0|1)$", "", line) for line in lines]
        problems += [
            f"{file} lists {image_id} twice: remove one of the lines"
            for image_id, count in collections.Counter(ids).items()
            if count > 1
        ]
        problems += [
            f"{file} lists {image_id}, which has no annotation"
            for image_id in ids
            if image_id not in known
        ]
        problems += [
            f"{file} lists {image_id}, which {files[splits[image_id]].name} does, too"
            for image_id in dict.fromkeys(ids)
            if splits.setdefault(image_id, split) != split
        ]
    if problems:
        raise ListError(problems)
    return _Lists(splits, unread)


open_split = functools.partial(file_list.open_split, read)
