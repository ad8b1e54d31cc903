"""`coco`: the instances JSON of COCO, or one in its form, and the folder of its images.

Boxes come along; crowds are difficult objects. Images without objects are kept, as the field does.
"""

import collections
import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oass_jax.data.sources import file_list
from oass_jax.data.sources.image_list import (
    ImageList,
    ListedImage,
    ListError,
    Object,
    checksum,
    is_utf8,
    read_bytes,
)
from oass_jax.errors import UserError

# Boxes may reach over the border by rounding.
_SLACK_PX = 2.0
_CROWD = {0: False, 1: True, "0": False, "1": True, None: False}


def read(path: Path) -> ImageList:
    """Reads an instances JSON; its images are not looked for.

    Raises:
      UserError: it is no such file.
      ListError: entries of it are wrong.
    """
    data = read_bytes(path)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    parts = [_entries(path, content, part) for part in ("images", "annotations", "categories")]
    images, annotations, categories = parts
    names = _class_names(path, categories)
    problems: list[str] = []
    by_id = _by_id(path, images, problems)
    objects = _objects(path, by_id, annotations, names, problems)
    listed = []
    for image_id, image in by_id.items():
        own = objects.get(image_id, [])
        listed.append(
            ListedImage(
                filename=str(image.get("file_name") or ""),
                where=f"{path.name}, image {image_id}",
                labels=tuple(dict.fromkeys(o.label for o in own)),
                objects=tuple(own),
                size=(image["height"], image["width"]) if own else None,
            )
        )
    problems += [f"{image.where} has no file_name" for image in listed if not image.filename]
    problems += [
        f"{image.where}: the name {image.filename!a} is not UTF-8: rename the file"
        for image in listed
        if not is_utf8(image.filename)
    ]
    if problems:
        raise ListError(problems)
    if not listed:
        raise UserError(f"{path} holds no image")
    counts = f"{len(listed):,} images, {len(annotations):,} objects of {len(names)} categories"
    return ImageList(
        path=path,
        image_dir=path.parent,
        checksum=checksum(data),
        images=listed,
        class_names=tuple(names.values()),
        has_boxes=True,
        notes=(f"{path}: {counts}",),
    )


def _entries(path: Path, content: Any, part: str) -> Sequence[Mapping[str, Any]]:
    entries = content.get(part) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(
            f"{path} is no instances JSON: it needs lists of images, annotations and categories, "
            f"and has no list of {part}"
        )
    return entries


def _class_names(path: Path, categories: Sequence[Mapping[str, Any]]) -> dict[Any, str]:
    """Category id -> name, by ascending id."""
    try:
        names = {category["id"]: str(category["name"]) for category in categories}
        ordered = dict(sorted(names.items()))
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: every category needs an id, a number, and a name") from error
    if len(set(ordered.values())) < len(categories):
        raise UserError(f"{path} has two categories of one id or name: rename one")
    return ordered


def _by_id(
    path: Path, images: Sequence[Mapping[str, Any]], problems: list[str]
) -> dict[Any, Mapping[str, Any]]:
    by_id: dict[Any, Mapping[str, Any]] = {}
    for number, image in enumerate(images):
        if not isinstance(image.get("id"), int | str):
            problems.append(f"{path.name}, images[{number}] has no id")
        elif image["id"] in by_id:
            problems.append(f"{path.name}, image {image['id']} is there twice")
        else:
            by_id[image["id"]] = image
    return by_id


def _objects(
    path: Path,
    images: Mapping[Any, Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
    names: Mapping[Any, str],
    problems: list[str],
) -> dict[Any, list[Object]]:
    """Image id -> its objects; what is wrong is added to `problems`."""
    objects = collections.defaultdict(list)
    for number, annotation in enumerate(annotations):
        try:
            objects[annotation["image_id"]].append(_object(annotation, images, names))
        except KeyError as error:
            problems.append(f"{path.name}, annotations[{number}] has no {error}")
        except (TypeError, ValueError, OverflowError) as error:
            problems.append(f"{path.name}, annotations[{number}]: {error}")
    return objects


def _object(
    annotation: Mapping[str, Any],
    images: Mapping[Any, Mapping[str, Any]],
    names: Mapping[Any, str],
) -> Object:
    if annotation["category_id"] not in names:
        raise ValueError(f"there is no category {annotation['category_id']!r}")
    if annotation["image_id"] not in images:
        raise ValueError(f"there is no image {annotation['image_id']!r}")
    image = images[annotation["image_id"]]
    height, width = image.get("height"), image.get("width")
    box = annotation["bbox"]
    numbers = [*box, height, width] if isinstance(box, list) and len(box) == 4 else [None]
    if not all(isinstance(number, int | float) for number in numbers) or not (height and width):
        raise ValueError("it needs a bbox of four numbers, and its image a height and width")
    left, top, box_width, box_height = box
    outside = max(-left, -top, left + box_width - width, top + box_height - height)
    is_finite = all(map(math.isfinite, box))
    if not is_finite or min(box_width, box_height) < 0 or not outside <= _SLACK_PX:
        raise ValueError(f"the box {box} is not inside the {width}x{height} image")
    ymin, ymax = (min(max(y / height, 0.0), 1.0) for y in (top, top + box_height))
    xmin, xmax = (min(max(x / width, 0.0), 1.0) for x in (left, left + box_width))
    is_crowd = annotation.get("iscrowd", 0)
    if is_crowd not in _CROWD:
        raise ValueError(f"iscrowd is {is_crowd!r}, neither 0 nor 1")
    is_crowd = _CROWD[is_crowd]
    return Object(names[annotation["category_id"]], (ymin, xmin, ymax, xmax), is_crowd)


open_split = functools.partial(file_list.open_split, read)
