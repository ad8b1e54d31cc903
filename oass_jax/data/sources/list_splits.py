"""Which images of a list are for training, and which for validation."""

import collections
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from oass_jax.data.sources import Location
from oass_jax.data.sources.image_list import ALL, TRAIN, VAL, ImageList, ListedImage, read_text
from oass_jax.errors import UserError


def divide(
    image_list: ImageList, class_names: Sequence[str], location: Location, split: str
) -> tuple[dict[str, list[int]], str, list[str]]:
    """Divides a list into splits: as it says, as was chosen before, or by a choice made now.

    Args:
      image_list: what its file says.
      class_names: all classes there are.
      location: `path`, `val_fraction`, `split_seed` and `split_list` are read.
      split: the one that is wanted, or a slice of it.

    Returns:
      Split -> numbers of its images; the choice made now, for `Location.split_list`, or ''; and
      notes for the user.

    Raises:
      UserError: the choice that was made before is damaged, or there are too few images.
    """
    images = image_list.images
    everything = {ALL: list(range(len(images)))}
    base = split.partition("[")[0]
    if "{split}" in str(location.path):
        return {base: everything[ALL]}, "", []
    if any(image.split for image in images):
        splits = _by_name(image.split for image in images)
        without_split = [image.filename for image in images if not image.split]
        return splits | everything, "", _note_of_no_split(image_list, without_split, "the lists")
    if base == ALL:
        return everything, "", []
    kept = _read_split_list(location.split_list)
    if kept:
        splits = _by_name(kept.get(image.filename) for image in images)
        without_split = [image.filename for image in images if image.filename not in kept]
        notes = _note_of_no_split(image_list, without_split, str(location.split_list))
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


def _note_of_no_split(image_list: ImageList, names: Sequence[str], where: str) -> list[str]:
    if not names:
        return []
    return [
        f"warning: {len(names)} images of {image_list.path} are in no split of {where}, such as "
        f"{names[0]}: only the split 'all' has them"
    ]


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
    if not 0 < num_val < len(images):
        raise UserError(
            f"{len(images)} images cannot be divided with data.val_fraction={val_fraction}: both "
            "splits need one at least"
        )
    number = {name: c for c, name in enumerate(class_names)}
    label = np.zeros([len(images), len(class_names) + 1], np.int8)
    for row, image in zip(label, images, strict=True):
        row[[number[name] for name in image.labels]] = 1
        row[-1] = not image.labels  # as evenly as those with a label
    splitter = MultilabelStratifiedShuffleSplit(
        n_splits=1, test_size=num_val, train_size=len(images) - num_val, random_state=seed
    )
    ((_, held_out),) = splitter.split(label, label)
    is_val = np.zeros([len(images)], bool)
    if not 0 < len(held_out) < len(images):  # labels that hardly any two images have in common
        held_out = np.random.RandomState(seed).permutation(len(images))[:num_val]
    is_val[held_out] = True
    return is_val


def take_slice(split: str, length: int) -> Sequence[int]:
    """The numbers of the images of a slice.

    Args:
      split: such as 'val', or 'val[:100]'.
      length: images in the whole of it.

    Raises:
      UserError: it is no slice.
    """
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
