"""Where images come from: one file a data set, and the registry of their names.

A new data set is a file here and one entry below: in `BUILDERS` if tfds prepares it, as it does a
`scene_builder.SceneBuilder`; in `WITH_PATH` if its files are read in place, by a function

    open_split(name, split, location, *, class_names) -> oass_jax.data.example.Split

whose arguments are those of `pipeline.open_split`. Entries are text, `module:attribute`, and
resolved when they are asked for, so that the command line knows the names without importing tfds.
"""

import dataclasses
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from oass_jax.errors import UserError, nearest

# Full name, with the tfds config where there is one -> tfds builder.
BUILDERS = {
    "voc/2012": "oass_jax.data.sources.voc:Voc",
    "voc/2007": "oass_jax.data.sources.voc:Voc",
    "digit_scenes": "oass_jax.data.sources.digit_scenes:DigitScenes",
}
# Those that `Location.path` says where they are -> function that opens a split.
WITH_PATH = {
    "csv": "oass_jax.data.sources.csv_list:open_split",
    "coco": "oass_jax.data.sources.coco:open_split",
    "voc_folder": "oass_jax.data.sources.voc_folder:open_split",
    "tfds": "oass_jax.data.sources.tfds_folder:open_split",
}
# Full name of every data set -> function that opens a split.
OPENERS = {**dict.fromkeys(BUILDERS, "oass_jax.data.prepare:open_split"), **WITH_PATH}


@dataclasses.dataclass(frozen=True)
class Location:
    """Where a data set lies, and how it is split where its files do not say so.

    Attributes:
      data_dir: where prepared data sets live; None for tfds' own place, `$TFDS_DATA_DIR` or
        `~/tensorflow_datasets`.
      manual_dir: folder of the archives to prepare from; None to download them, or to accept what
        is prepared already.
      path: the list or the folder of a data set of `WITH_PATH`; `{split}` in it stands for the
        name of the split.
      image_dir: what file names of a list are relative to; None for the folder of the list.
      val_fraction: share of the images that become 'val' where the list does not say which do.
      split_seed: of that choice.
      split_list: a CSV of the choice that was made before; None, or no such file, to make one.
    """

    data_dir: Path | None = None
    manual_dir: Path | None = None
    path: Path | None = None
    image_dir: Path | None = None
    val_fraction: float = 0.2
    split_seed: int = 0
    split_list: Path | None = None

    @classmethod
    def from_fields(
        cls, fields: Mapping[str, Any], *, split_list: Path | None = None
    ) -> "Location":
        """The location that `data` of a config names.

        Args:
          fields: name -> value; '' stands for no path, as does what an older config lacks.
          split_list: see the attribute.
        """
        paths = ("data_dir", "manual_dir", "path", "image_dir")
        numbers = ("val_fraction", "split_seed")
        return cls(
            **{name: Path(fields[name]).expanduser() for name in paths if fields.get(name)},
            **{name: fields[name] for name in numbers if name in fields},
            split_list=split_list,
        )


def flag(name: str) -> str:
    """How an error names a setting that both `oass_jax.prepare` and `oass_jax.main` have.

    Args:
      name: such as 'manual_dir'.
    """
    return f"--{name} (of oass_jax.main: --config.data.{name})"


def find_opener(name: str) -> Callable[..., Any]:
    """The function that opens the splits of a data set.

    Args:
      name: key of `OPENERS`.

    Raises:
      UserError: unknown name.
    """
    _check_known(name)
    return pkgutil.resolve_name(OPENERS[name])


def find_builder(name: str) -> type[Any]:
    """The builder class of a data set that tfds prepares.

    Args:
      name: key of `BUILDERS`.

    Raises:
      UserError: unknown name, or a data set that is read in place.
    """
    if name not in BUILDERS and name in OPENERS:
        raise UserError(f"{name} is read in place: there is nothing to prepare")
    _check_known(name)
    return pkgutil.resolve_name(BUILDERS[name])


def _check_known(name: str) -> None:
    if name not in OPENERS:
        raise UserError(f"unknown data set {name!r}: {nearest(name, OPENERS)}")
