"""Flags and config, with every mistake told in one line and exit status 2.

Nothing here imports jax, so mistakes are told at once.
"""

import logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import absl.logging
from absl import app, flags
from ml_collections import ConfigDict

from oass_jax import config_file, default_config
from oass_jax.errors import UserError, nearest
from oass_jax.figures.runs import flatten
from oass_jax.model import encoders

PREFIX = "--config."


def run(main: Callable[[], None]) -> None:
    """Parses the command line, checks it, and runs a command.

    Args:
      main: reads `flags.FLAGS`; a `UserError` it raises is told in one line.
    """

    def guarded(argv: Sequence[str]) -> None:
        del argv
        # The libraries warn of what is meant to be so.
        absl.logging.set_verbosity(absl.logging.ERROR)
        logging.getLogger("oass_jax").setLevel(logging.WARNING)
        try:
            main()
        except UserError as error:
            fail(str(error))

    # The fields of a config are only known once it is loaded, wherever it stands.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: not word.startswith("--config="))
    app.run(guarded, flags_parser=_parse)


def fail(message: str) -> NoReturn:
    """Tells a mistake in one line on stderr and exits with status 2."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def check_config(config: ConfigDict) -> None:
    """Refuses values that cannot work, before anything is loaded.

    Args:
      config: every field of `oass_jax/default_config.py`.

    Raises:
      UserError: names the field, its value and what it accepts.
    """
    template = flatten(default_config.get_config().to_dict())
    fields = flatten(config.to_dict())
    choices = default_config.CHOICES | {"model.encoder": tuple(encoders.ENCODERS)}
    for name, value in fields.items():
        if name in choices and value not in choices[name]:
            raise UserError(f"{PREFIX}{name}={value}: {nearest(str(value), choices[name])}")
        if isinstance(value, tuple):
            _check_length(name, value, len(template[name]))
        numbers = value if isinstance(value, tuple) else (value,)
        for number in numbers:
            _check_number(name, number)
    _check_together(config, fields)
    _check_paths(fields)


def _check_length(name: str, value: tuple, length: int) -> None:
    if name in default_config.LISTS:
        if not value or not all(isinstance(number, int | float) for number in value):
            raise UserError(f"{PREFIX}{name}={value} needs numbers, one or more: (1.0,) is one")
    elif len(value) != length:
        raise UserError(f"{PREFIX}{name}={value} needs {length} numbers")


def _check_number(name: str, number: Any) -> None:
    if isinstance(number, bool) or not isinstance(number, int | float):
        return
    least = default_config.MINIMUM.get(name, 0)
    if not math.isfinite(number) or number < least:
        raise UserError(f"{PREFIX}{name}={number}: must be finite and at least {least}")


def _check_together(config: ConfigDict, fields: Mapping[str, Any]) -> None:
    low, high = config.augment.long_side_px
    if low > high:
        raise UserError(f"{PREFIX}augment.long_side_px=({low}, {high}): the first is the smaller")
    if config.keypoint.window_cells % 2 == 0:
        raise UserError(
            f"{PREFIX}keypoint.window_cells={config.keypoint.window_cells} has no cell in the "
            "middle: choose an odd number"
        )
    kinds = {"csi": config.model.csi, "graph": config.model.graph, "regions": config.regions.count}
    there = ["base", *(kind for kind, used in kinds.items() if used)]
    if config.eval.logits in kinds and config.eval.logits not in there:
        raise UserError(
            f"{PREFIX}eval.logits={config.eval.logits}: this config has {' and '.join(there)} only"
        )
    if config.eval.weights == "ema" and config.teacher.mode != "ema":
        raise UserError(f"{PREFIX}eval.weights=ema needs {PREFIX}teacher.mode=ema")
    for name in ("teacher.ema_decay", "augment.flip_probability", "regions.threshold"):
        if (value := fields[name]) > 1:
            raise UserError(f"{PREFIX}{name}={value} is above 1")
    if config.data.cache and config.data.num_workers:
        raise UserError(
            f"{PREFIX}data.cache keeps images in this process: set {PREFIX}data.num_workers=0"
        )


def _check_paths(fields: Mapping[str, Any]) -> None:
    for name in ("data.manual_dir", "model.pretrained", "model.label_vectors"):
        path = Path(fields[name]).expanduser()
        is_path = name != "model.pretrained" or path.suffix == ".safetensors"
        if str(path) != "." and is_path and not path.exists():
            siblings = [str(p) for p in path.parent.glob("*")]
            raise UserError(f"{PREFIX}{name}={path} does not exist: {nearest(str(path), siblings)}")


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            fail(f"{rest[1]!r} is not a flag: flags begin with --")
        for name in ("config", "workdir"):
            if name in flags.FLAGS and not flags.FLAGS[name].value:
                fail(f"--{name} is missing")
        if flags.FLAGS.config is not None:
            check_config(flags.FLAGS.config)
    except flags.UnrecognizedFlagError as error:
        fail(f"{error.flagname} is not a flag: {nearest(error.flagname, _flag_names())}")
    except UserError as error:
        fail(str(error))
    except Exception as error:  # a config is a program, and may raise anything
        fail(_explain(argv, error))
    return rest


def _flag_names() -> list[str]:
    return [
        f"--{name}"
        for name in ("config", "workdir", "mode", "distributed", "help")
        if name in flags.FLAGS
    ]


def _explain(argv: Sequence[str], error: Exception) -> str:
    """Says which word of the command line an error is about."""
    fields = flatten(default_config.get_config().to_dict())
    for word in argv[1:]:
        name, _, value = word.partition("=")
        if name == "--config" and value:
            path, _, parameter = value.partition(":")
            known = [f"configs/{p.name}" for p in config_file.FOLDER.glob("*.py")]
            if path not in known and not (path.endswith(".py") and Path(path).is_file()):
                return f"{path} is not a config: {nearest(path, known)}"
            methods = config_file.methods()
            if path == "configs/demo.py" and parameter and parameter not in methods:
                return f"{word}: {parameter} is not a method: {nearest(parameter, methods)}"
            if path.endswith("from_json.py") and not Path(parameter).is_file():
                return f"{word}: there is no file {parameter!r}; write {path}:WORKDIR/config.json"
        elif name.startswith(PREFIX):
            field = name.removeprefix(PREFIX)
            if field not in fields:
                return f"{name} is not a field: {nearest(field, fields)}"
            if f"config.{field}" in str(error):
                kind = type(fields[field]).__name__
                return f"{word}: {field} is of type {kind}, like {fields[field]!r}"
    return str(error).strip().splitlines()[-1]
