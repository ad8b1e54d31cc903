"""Replays a run from the `config.json` in its workdir.

python -m oass_jax.main --config=configs/from_json.py:WORKDIR/config.json --workdir=WORKDIR
"""

import json

from oass_jax import default_config


def get_config(path):
    """Returns the default configuration with every value of the JSON file `path`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not the `config.json` of a run.
    """
    with open(path, encoding="utf-8") as file:
        values = json.load(file)
    config = default_config.get_config()
    try:
        config.update(_with_tuples(values))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not fit this version: {error}") from error
    return config


def _with_tuples(value):
    # JSON has no tuples, and a field keeps the type of its default.
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value
