"""Where images come from: one file a data set, and the registry of their names.

A new data set is a file here and one entry below: in `BUILDERS` if tfds prepares it, as it does a
`scene_builder.SceneBuilder`; in `OPENERS` if its files are read in place, by a function

    open_split(name, split, *, data_dir, manual_dir) -> oass_jax.data.example.Split

whose arguments are those of `pipeline.open_split`. Entries are text, `module:attribute`, and
resolved when they are asked for, so that the command line knows the names without importing tfds.
"""

import pkgutil
from collections.abc import Callable
from typing import Any

from oass_jax.errors import UserError, nearest

# Full name, with the tfds config where there is one -> tfds builder.
BUILDERS = {
    "voc/2012": "oass_jax.data.sources.voc:Voc",
    "voc/2007": "oass_jax.data.sources.voc:Voc",
    "digit_scenes": "oass_jax.data.sources.digit_scenes:DigitScenes",
}
# Full name -> function that opens a split.
OPENERS = {
    **dict.fromkeys(BUILDERS, "oass_jax.data.prepare:open_split"),
}


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
