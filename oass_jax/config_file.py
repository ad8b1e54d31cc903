"""Configs: where they are, and how one is loaded, described and read back from its JSON.

They are in `configs/` of a checkout and in `oass_jax/configs` of an installed package.
"""

import ast
import importlib.util
import inspect
import json
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from oass_jax import default_config
from oass_jax.errors import UserError, nearest

_INSTALLED = Path(__file__).parent / "configs"
FOLDER = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[1] / "configs"
# Configs that are made from an argument, and no method of their own.
_WITH_ARGUMENT = ("own", "demo", "photographs", "from_json")


def methods() -> list[str]:
    """The names of the configs that are a method, such as `max`: every file but the others'."""
    stems = (path.stem for path in FOLDER.glob("*.py"))
    return sorted(stem for stem in stems if stem[0] != "_" and stem not in _WITH_ARGUMENT)


def descriptions() -> dict[str, str]:
    """Name of every config -> first line of its docstring."""
    texts = {
        name: (FOLDER / f"{name}.py").read_text(encoding="utf-8")
        for name in (*methods(), *_WITH_ARGUMENT)
    }
    return {
        name: ast.get_docstring(ast.parse(text)).splitlines()[0] for name, text in texts.items()
    }


def load(word: str) -> ConfigDict:
    """The config that a word names.

    Args:
      word: a name, `max`; the same as a file, `configs/max.py`; or a file of the user's own,
        `my/config.py`. An argument follows a colon: `demo:max`.

    Raises:
      UserError: there is no such config, or its file does not work.
    """
    path, has_argument, argument = word.partition(":")
    file = _find(path)
    try:
        config = _call(file, [argument] if has_argument else [])
    except UserError:
        raise
    except Exception as error:  # a config is a program, and may raise anything
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == str(file)
        ]
        where = f", line {lines[-1]}" if lines else ""
        raise UserError(f"{word}{where}: {type(error).__name__}: {error}") from error
    _check_fields(word, config)
    return config


def load_method(name: str) -> ConfigDict:
    """The config of a method.

    Args:
      name: one of `methods`.

    Raises:
      UserError: there is no such method.
    """
    if name not in methods():
        raise UserError(f"{name} is not a method: {nearest(name, methods())}")
    return load(name)


def from_json(path: str | Path) -> ConfigDict:
    """The default config with every value of a run's `config.json`.

    Args:
      path: of the file.

    Raises:
      UserError: there is no such file, or it is not the `config.json` of this version.
    """
    try:
        values = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"there is no file {str(path)!r}: name the config.json in the workdir of a run"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    config = default_config.get_config()
    known = flatten(config.to_dict())
    if not isinstance(values, dict):
        raise UserError(f"{path} is not the config of a run: it holds no fields")
    if unknown := [name for name in flatten(values) if name not in known]:
        raise UserError(
            f"{path} does not fit this version: it has no field {unknown[0]}, "
            f"{nearest(unknown[0], known)}"
        )
    try:
        config.update(_with_tuples(values))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not fit this version: {error}") from error
    return config


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`a.b` -> value of every field of a nested config."""
    fields = {}
    for name, value in config.items():
        nested = isinstance(value, Mapping)
        fields |= flatten(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return fields


def _find(path: str) -> Path:
    own = Path(path).expanduser()
    if own.suffix == ".py" and own.is_file():
        return own.absolute()  # as tracebacks name it
    names = [*methods(), *_WITH_ARGUMENT]
    files = {f"configs/{name}.py": FOLDER / f"{name}.py" for name in names}
    if path in files or path in names:
        return FOLDER / Path(path).with_suffix(".py").name
    siblings = [str(file) for file in own.parent.glob("*.py")] if "/" in path else []
    known = {*files, *siblings} if "/" in path or own.suffix else names
    raise UserError(f"{path} is not a config: {nearest(path, known)}")


def _call(file: Path, arguments: list[str]) -> Any:
    # By its path, so that a checkout and an installed package need no name in common.
    spec = importlib.util.spec_from_file_location(f"oass_jax.configs.{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        inspect.signature(module.get_config).bind(*arguments)
    except TypeError as error:
        wrong = (
            f"takes no argument {arguments[0]!r}" if arguments else "needs an argument, after a :"
        )
        raise UserError(f"the config {file.stem} {wrong}") from error
    return module.get_config(*arguments)


def _check_fields(word: str, config: Any) -> None:
    """Every field is there and no other, as the code expects it."""
    if not isinstance(config, ConfigDict):
        raise UserError(f"{word}: get_config() must return a ConfigDict")
    known, fields = flatten(default_config.get_config().to_dict()), flatten(config.to_dict())
    for name in sorted({*known} ^ {*fields}):
        what = "lacks" if name in known else "adds"
        raise UserError(f"{word} {what} the field {name}: start from default_config.get_config()")


def _with_tuples(value: Any) -> Any:
    # JSON has no tuples, and a field keeps the type of its default.
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value
