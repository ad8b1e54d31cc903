"""The images with class maps that an evaluation has drawn: `pictures/` with its `index.json`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oass_jax.figures.report.thumbnails import data_uri
from oass_jax.run.workdir import PICTURES, PICTURES_INDEX

_MIME = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}


@dataclass(frozen=True)
class Picture:
    """A drawn image.

    Attributes:
      uri: a `data:` address.
      image: file name of the image it is of.
      labels: names of its classes.
      predicted: names of the classes that the network predicts.
      width: in pixels.
      height: in pixels.
    """

    uri: str
    image: str
    labels: tuple[str, ...]
    predicted: tuple[str, ...]
    width: int
    height: int


def read(folder: Path, *, max_bytes: int) -> tuple[list[Picture], int]:
    """Reads as many as there is room for.

    Args:
      folder: of the evaluation.
      max_bytes: room for their addresses.

    Returns:
      The pictures in the order of the index, and how many more there are.
    """
    try:
        index = json.loads((folder / PICTURES / PICTURES_INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return [], 0
    entries = index if isinstance(index, list) else []
    found: list[Picture] = []
    for entry in entries:
        picture = _read_one(folder / PICTURES, entry)
        if picture is None:
            continue
        max_bytes -= len(picture.uri)
        if max_bytes < 0:
            break
        found.append(picture)
    return found, len(entries) - len(found)


def _read_one(folder: Path, entry: Any) -> Picture | None:
    """None where the entry is damaged, or its file is none of the folder's."""
    try:
        path = folder / Path(entry["file"]).name
        return Picture(
            uri=data_uri(path.read_bytes(), _MIME[path.suffix.lower()]),
            image=str(entry["image"]),
            labels=tuple(map(str, entry["labels"])),
            predicted=tuple(map(str, entry["predicted"])),
            width=int(entry["width"]),
            height=int(entry["height"]),
        )
    except (OSError, KeyError, TypeError, ValueError):
        return None
