"""A run once more, in another workdir, with every field as in the `config.json` of its own.

python -m oass_jax.main --config=from_json:WORKDIR/config.json --workdir=NEW_WORKDIR
"""

from oass_jax import config_file


def get_config(path):
    """Returns the configuration of the run.

    Args:
      path: of its `config.json`.
    """
    return config_file.from_json(path)
