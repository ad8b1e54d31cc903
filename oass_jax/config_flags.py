"""`--config=WORD --config.FIELD=VALUE ...` -> the config of a command.

To train, the config is the word's, and any field may be set. To evaluate, it is that of the run in
the workdir, and only what does not belong to the run may be set.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags import DEFINE_config_dict

from oass_jax import config_file
from oass_jax.command_line import PREFIX
from oass_jax.config_check import check_config, has_name_of_tfds
from oass_jax.config_file import flatten
from oass_jax.default_config import OF_HOST
from oass_jax.errors import UserError, nearest
from oass_jax.run.workdir import Workdir

# Fields that an evaluation may set, or how they begin.
_OF_EVALUATION = ("eval.", "cam.", "distributed.", "data.max_boxes", *OF_HOST)
# Fields that make the network another one, and those among them that do not.
_OF_NETWORK = ("model.", "teacher.mode", "regions.")
_NOT_OF_NETWORK = ("model.pretrained", "model.remat", "model.dtype", "model.label_vectors")


def is_override(word: str) -> bool:
    """Whether a word of the command line sets a field of the config."""
    return word.startswith((PREFIX, "--noconfig."))


def to_train(word: str, overrides: Sequence[str]) -> ConfigDict:
    """The config to train with.

    Args:
      word: names a config, see `config_file.load`.
      overrides: words such as `--config.batch_size=16`.

    Raises:
      UserError: no such config or field, or a value that cannot work.
    """
    config = _override(config_file.load(word), overrides)
    check_config(config)
    _make_absolute(config)
    return config


def to_evaluate(workdir: Path, word: str | None, overrides: Sequence[str]) -> ConfigDict:
    """The config of a run, to evaluate it with.

    Args:
      workdir: of the run.
      word: names the config the run is believed to have; None to accept any.
      overrides: words such as `--config.eval.split=test`. What they set beside the evaluation must
        be as in the run.

    Raises:
      UserError: no run there, or it is another one than `word` and `overrides` say.
    """
    trained = _config_of_run(workdir)
    if word is not None:
        expected = flatten(_override(config_file.load(word), overrides).to_dict())
        _refuse_other_network(word, workdir, expected, flatten(trained.to_dict()))
    config = _override(_config_of_run(workdir), overrides)
    _refuse_other_training(workdir, flatten(config.to_dict()), flatten(trained.to_dict()))
    # Both come from the checkpoint: the files training began with may be gone.
    with_checkpoint = config.copy_and_resolve_references()
    with_checkpoint.model.pretrained = with_checkpoint.model.label_vectors = ""
    check_config(with_checkpoint)
    _make_absolute(config)
    return config


def _make_absolute(config: ConfigDict) -> None:
    """Names where the data is so that the run finds it from any folder."""
    fields = flatten(config.to_dict())
    for name in ("data_dir", "manual_dir", "path", "image_dir"):
        is_name = name == "path" and has_name_of_tfds(fields)
        if config.data[name] and not is_name:
            config.data[name] = os.path.abspath(os.path.expanduser(config.data[name]))


def _config_of_run(workdir: Path) -> ConfigDict:
    path = Workdir(workdir).config
    if not path.is_file():
        raise UserError(f"there is no run in {workdir} (no config.json): train there first")
    return config_file.from_json(path)


def _refuse_other_network(
    word: str, workdir: Path, expected: Mapping[str, Any], trained: Mapping[str, Any]
) -> None:
    others = [
        f"{name} is {expected[name]!r}, in the run {trained[name]!r}"
        for name in trained
        if name.startswith(_OF_NETWORK)
        and name not in _NOT_OF_NETWORK
        and expected[name] != trained[name]
    ]
    if others:
        raise UserError(
            f"--config={word} is another network than the run in {workdir}: {'; '.join(others)}; "
            "leave --config out"
        )


def _refuse_other_training(
    workdir: Path, fields: Mapping[str, Any], trained: Mapping[str, Any]
) -> None:
    others = [
        f"{PREFIX}{name}={fields[name]} ({trained[name]} in the run)"
        for name in trained
        if fields[name] != trained[name] and not name.startswith(_OF_EVALUATION)
    ]
    if others:
        can_be_set = ", ".join(f"{name}*" if name[-1] == "." else name for name in _OF_EVALUATION)
        raise UserError(
            f"the run in {workdir} was trained otherwise: {', '.join(others)}; what can be set to "
            f"evaluate it: {can_be_set}"
        )


def _override(config: ConfigDict, words: Sequence[str]) -> ConfigDict:
    """Sets fields of a config, with the parser of ml_collections."""
    fields = flatten(config.to_dict())
    for word in words:
        _check_name(word, fields)
    words = _last_of_each(words)
    values = flags.FlagValues()
    try:
        DEFINE_config_dict("config", config, flag_values=values, sys_argv=list(words))
        rest = values(["", *words])
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(_explain(words, fields, error)) from error
    if len(rest) > 1:
        raise UserError(f"{rest[1]!r} is not a flag: flags begin with --")
    return values.config


def _last_of_each(words: Sequence[str]) -> list[str]:
    """Leaves out what is set again later: the parser would append to a tuple."""
    last = {word.partition("=")[0] if "=" in word else n: word for n, word in enumerate(words)}
    return list(last.values())


def _check_name(word: str, fields: Mapping[str, Any]) -> None:
    if not is_override(word):  # the value of the word before it, or too much
        return
    flag = word.partition("=")[0]
    name = flag.partition(".")[2]
    if any(field.startswith(f"{name}.") for field in fields):
        raise UserError(f"{flag} is not a field but has some: set {flag}.FIELD=VALUE")
    if name not in fields:
        raise UserError(f"{flag} is not a field: {nearest(name, fields)}")


def _explain(words: Sequence[str], fields: Mapping[str, Any], error: Exception) -> str:
    """Says which word an error of the parser is about."""
    for word in words:
        flag = word.partition("=")[0]
        name = flag.partition(".")[2]
        if name in fields and f"config.{name}" in str(error):
            kind = type(fields[name]).__name__
            return f"{word}: {name} is of type {kind}, like {fields[name]!r}"
    return str(error).strip().splitlines()[-1]
