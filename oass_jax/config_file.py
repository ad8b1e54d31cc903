"""Where the configs are: `configs/` of a checkout, `oass_jax/configs` of an installed package."""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from oass_jax.errors import UserError, nearest

_INSTALLED = Path(__file__).parent / "configs"
FOLDER = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[1] / "configs"
# Configs that are made from an argument, and no method of their own.
_WITH_ARGUMENT = ("demo", "from_json")


def methods() -> list[str]:
    """The names of the configs that are a method, such as `max`: every file but the others'."""
    stems = (path.stem for path in FOLDER.glob("*.py"))
    return sorted(stem for stem in stems if stem[0] != "_" and stem not in _WITH_ARGUMENT)


def load(name: str) -> ConfigDict:
    """The config of that name, `max`, or with an argument, `demo:max`.

    Args:
      name: of a file in the folder, without `.py`.

    Raises:
      UserError: there is no such config.
    """
    stem, _, argument = name.partition(":")
    path = FOLDER / f"{stem}.py"
    if not path.is_file():
        known = [*methods(), *_WITH_ARGUMENT]
        raise UserError(f"{stem} is not a config: {nearest(stem, known)}")
    get_config = _get_config(path)
    return get_config(argument) if argument else get_config()


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`a.b` -> value of every field of a nested config."""
    fields = {}
    for name, value in config.items():
        nested = isinstance(value, Mapping)
        fields |= flatten(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return fields


def _get_config(path: Path) -> Callable[..., Any]:
    # By its path, so that a checkout and an installed package need no name in common.
    spec = importlib.util.spec_from_file_location(f"oass_jax.configs.{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config
