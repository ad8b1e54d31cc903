"""`voc_folder`: a folder in the layout of PASCAL VOC, with classes of any name.

`JPEGImages/` holds the images and `Annotations/` an XML file for each, with its `<size>`; where
`ImageSets/Main/` has lists, such as `train.txt`, these are the splits. labelImg, CVAT and others
write it.
"""

import collections
import functools
import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

from oass_jax.data.sources import file_list
from oass_jax.data.sources.image_list import (
    TEST,
    TRAIN,
    VAL,
    ImageList,
    ListedImage,
    ListError,
    Object,
    is_utf8,
    read_bytes,
    read_text,
)
from oass_jax.data.sources.voc_annotation import parse_annotation
from oass_jax.errors import UserError

_ANNOTATIONS, _IMAGES, _LISTS = "Annotations", "JPEGImages", "ImageSets/Main"


def read(path: Path) -> ImageList:
    """Reads the annotations and lists of a folder; its images are not looked for.

    Raises:
      UserError: it is no such folder.
      ListError: annotations or lists are wrong.
    """
    files = sorted((path / _ANNOTATIONS).glob("*.xml"))
    if not files:
        raise UserError(f"{path} has no {_ANNOTATIONS}/*.xml: name the folder that holds them")
    known = {file.stem for file in files}
    splits, digest = _read_lists(path, known), hashlib.sha256()
    images, problems = [], []
    for file in files:
        if not is_utf8(file.name):
            problems.append(f"the name {file.name!a} in {file.parent} is not UTF-8: rename it")
            continue
        data = read_bytes(file)
        digest.update(file.name.encode() + data)
        try:
            images.append(_image(file, data, splits.get(file.stem)))
        except UserError as error:
            problems.append(str(error))
    problems += [
        f"{path / _LISTS / split}.txt lists {image_id}, which has no annotation"
        for image_id, split in splits.items()
        if image_id not in known
    ]
    if problems:
        raise ListError(problems)
    digest.update(repr(sorted(splits.items())).encode())
    class_names = sorted({label for image in images for label in image.labels})
    listed = ", ".join(sorted(set(splits.values()))) or "none"
    notes = (f"{path}: {len(images)} annotations of {len(class_names)} classes; lists: {listed}",)
    return ImageList(
        path=path,
        image_dir=path / _IMAGES,
        checksum=digest.hexdigest(),
        images=images,
        class_names=tuple(class_names),
        has_boxes=True,
        notes=notes,
    )


def _image(file: Path, data: bytes, split: str | None) -> ListedImage:
    annotation = parse_annotation(data, name=file.name)
    labels = annotation.labels
    objects = zip(labels, annotation.boxes.tolist(), annotation.difficult.tolist(), strict=True)
    return ListedImage(
        filename=file.stem,
        where=f"{file.parent.name}/{file.name}",
        labels=tuple(dict.fromkeys(labels)),
        objects=tuple(Object(label, tuple(box), difficult) for label, box, difficult in objects),
        split=split,
    )


def _read_lists(path: Path, known: Collection[str]) -> Mapping[str, str]:
    """Image id -> its split.

    `trainval` is no split of its own; VOC's lists of one class, `cat_train.txt`, are none either.

    Args:
      path: of the folder.
      known: ids that have an annotation, which may hold spaces.

    Raises:
      ListError: an image is in two splits, or in one twice.
    """
    splits: dict[str, str] = {}
    problems = []
    for split in (TRAIN, VAL, TEST):
        file = path / _LISTS / f"{split}.txt"
        if not file.is_file():
            continue
        lines = filter(None, map(str.strip, read_text(file).splitlines()))
        # VOC's lists may have a number behind the id.
        ids = [first if (first := line.split()[0]) in known else line for line in lines]
        problems += [
            f"{file} lists {image_id} twice: remove one of the lines"
            for image_id, count in collections.Counter(ids).items()
            if count > 1
        ]
        problems += [
            f"{file} lists {image_id}, which {splits[image_id]}.txt does, too"
            for image_id in dict.fromkeys(ids)
            if splits.setdefault(image_id, split) != split
        ]
    if problems:
        raise ListError(problems)
    return splits


open_split = functools.partial(file_list.open_split, read)
