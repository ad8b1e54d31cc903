"""The rules a config must keep, checked before anything is loaded."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from oass_jax import default_config
from oass_jax.command_line import PREFIX
from oass_jax.config_file import flatten
from oass_jax.data import sources
from oass_jax.errors import UserError, nearest, nearest_path
from oass_jax.model import encoders

# The words a field accepts, where it does not accept all; what is registered later counts, too.
CHOICES = default_config.CHOICES | {
    "data.dataset": sources.OPENERS,
    "eval.dataset": sources.OPENERS,
    "model.encoder": encoders.ENCODERS,
}


def check_config(config: ConfigDict) -> None:
    """Refuses values that cannot work, before anything is loaded.

    Args:
      config: every field of `oass_jax/default_config.py`.

    Raises:
      UserError: names the field, its value and what it accepts.
    """
    template = flatten(default_config.get_config().to_dict())
    fields = flatten(config.to_dict())
    for name, value in fields.items():
        if name in CHOICES and value not in CHOICES[name]:
            raise UserError(f"{PREFIX}{name}={value}: {nearest(str(value), CHOICES[name])}")
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
    minimum = default_config.MINIMUM.get(name, 0)
    if not math.isfinite(number) or number < minimum:
        raise UserError(f"{PREFIX}{name}={number}: must be finite and at least {minimum}")


def _check_together(config: ConfigDict, fields: Mapping[str, Any]) -> None:
    for name in ("seed", "data.split_seed"):
        if fields[name] >= 2**32:
            raise UserError(f"{PREFIX}{name}={fields[name]}: must be less than 2**32")
    low, high = config.augment.long_side_px
    if low > high:
        raise UserError(f"{PREFIX}augment.long_side_px=({low}, {high}): the first is the smaller")
    if config.keypoint.window_cells % 2 == 0:
        raise UserError(
            f"{PREFIX}keypoint.window_cells={config.keypoint.window_cells} has no cell in the "
            "middle: choose an odd number"
        )
    heads = {"csi": config.model.csi, "graph": config.model.graph, "regions": config.regions.count}
    known = ["base", *(head for head, used in heads.items() if used)]
    if config.eval.logits in heads and config.eval.logits not in known:
        raise UserError(
            f"{PREFIX}eval.logits={config.eval.logits}: this config has {' and '.join(known)} only"
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
    for name in ("data.dataset", "eval.dataset"):
        if fields[name] in sources.WITH_PATH and not fields["data.path"]:
            raise UserError(
                f"{PREFIX}{name}={fields[name]} needs {PREFIX}data.path: its list or folder"
            )
    for name in (
        *("data.manual_dir", "data.path", "data.image_dir"),
        *("model.pretrained", "model.label_vectors"),
    ):
        path = Path(fields[name]).expanduser()
        may_be_a_name = (
            (name == "model.pretrained" and path.suffix != ".safetensors")
            or (name == "data.path" and has_name_of_tfds(fields))
            or "{split}" in str(path)
        )
        if str(path) != "." and not may_be_a_name and not path.exists():
            raise UserError(f"{PREFIX}{name}={path} does not exist: {nearest_path(path)}")


def has_name_of_tfds(fields: Mapping[str, Any]) -> bool:
    """Whether `data.path` is the name of a prepared tfds data set, and no path.

    Args:
      fields: `a.b` -> value of every field.
    """
    path = Path(fields["data.path"]).expanduser()
    is_file = path.is_file() or (path / "dataset_info.json").is_file()
    return "tfds" in (fields["data.dataset"], fields["eval.dataset"]) and not is_file
