"""The evaluated images as the report shows them: small, each once, as many as there is room for."""

import base64
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from oass_jax.data import sources
from oass_jax.data.example import Split
from oass_jax.data.image_file import read_shrunk
from oass_jax.data.sources import Location
from oass_jax.errors import UserError
from oass_jax.figures.source import Source
from oass_jax.run.files import read_json

MAX_IMAGES = 500
_SIDE_PX = 112
_PLACES = ("path", "image_dir")
_QUALITY = 60


@dataclass(frozen=True)
class Thumbnail:
    """An image of the report.

    Attributes:
      uri: a `data:` address.
      width: in pixels.
      height: in pixels.
    """

    uri: str
    width: int
    height: int


def read(
    source: Source, wanted: Iterable[int], *, max_bytes: int
) -> tuple[dict[int, Thumbnail], list[str]]:
    """Reads images of the evaluated split and shrinks them.

    Args:
      source: the evaluation; the config of its run says where the data is.
      wanted: numbers of images, the most important first; one may come again.
      max_bytes: room for their addresses.

    Returns:
      Number -> thumbnail of as many as there is room for, and sentences on what is missing.
    """
    try:
        split = _open(source)
    except UserError as error:
        return {}, [f"The report has no images: {error}."]
    found, unreadable, size = {}, [], 0
    number = _numbers(source, split)
    for image in dict.fromkeys(wanted):
        if len(found) == MAX_IMAGES:
            break
        try:
            made = _shrink(split, number(image))
        except (UserError, RuntimeError) as error:  # array_record's of files that are gone
            unreadable.append(str(error).partition("\n")[0])
            continue
        size += len(made.uri)
        if size > max_bytes:
            break
        found[image] = made
    notes = []
    if unreadable:
        notes.append(f"{len(unreadable)} images are not shown, such as: {unreadable[0]}.")
    return found, notes


def data_uri(data: bytes, mime: str) -> str:
    """A file as an address that holds it."""
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def _open(source: Source) -> Split:
    """Opens the evaluated split where it lies; prepares and downloads nothing.

    Raises:
      UserError: it cannot be opened.
    """
    folder = source.folder
    dataset, split = source.summary.get("dataset"), source.summary.get("split")
    data = read_json(folder.config).get("data")
    if not dataset or not isinstance(data, dict):
        raise UserError(f"{folder.config} does not say where they are")
    if (kind := dataset.partition("/")[0]) in sources.WITH_PATH:  # then the list's name follows
        if kind != dataset and "path" not in source.summary:
            raise UserError(f"{dataset} was evaluated by an earlier version: evaluate it again")
        dataset = kind
        data = data | {name: source.summary.get(name, data.get(name)) for name in _PLACES}
    location = replace(
        Location.from_fields(data, split_list=folder.split_list),
        manual_dir=None,  # what was prepared stays right, wherever its archives went
    )
    if dataset in sources.BUILDERS:
        from oass_jax.data import prepare

        if not prepare.is_prepared(dataset, data_dir=location.data_dir):
            raise UserError(f"{dataset} is not prepared in {location.data_dir or 'its folder'}")
    return sources.find_opener(dataset)(dataset, split, location, class_names=source.class_names)


def _numbers(source: Source, split: Split) -> Callable[[int], int]:
    """A function that finds the record of an image.

    An evaluation keeps the order of its split, so that as a rule no name has to be looked for: in
    a tfds data set that means to read every record.
    """
    by_name: dict[str, int] = {}

    def number(image: int) -> int:
        name = source.images[image]
        if image < len(split) and split.filename(image) == name:
            return image
        if not by_name:
            by_name.update((name, number) for number, name in enumerate(split.filenames))
        if name not in by_name:
            raise UserError(f"{name} is not in {split.name} {split.split} any more")
        return by_name[name]

    return number


def _shrink(split: Split, number: int) -> Thumbnail:
    record = split.source[number]
    image, _ = read_shrunk(split.read_image(record), name=split.where(record), fit_px=_SIDE_PX)
    packed = io.BytesIO()
    image.save(packed, "WEBP", quality=_QUALITY, method=2)
    return Thumbnail(data_uri(packed.getvalue(), "image/webp"), *image.size)
