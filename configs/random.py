"""OASS with random keypoints: what cutting anywhere does, the control for `max`.

    python -m oass_jax.main --config=random --workdir=runs/random

The paper has no row for it. All but the keypoint is as in `max`.
"""

from oass_jax import default_config


def get_config():
    """Returns the configuration of OASS with random keypoints."""
    config = default_config.get_config()
    config.keypoint.strategy = "random"
    return config
