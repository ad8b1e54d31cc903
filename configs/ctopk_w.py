"""OASS, `cTopk-w`, without CSI. Table 3: 92.02 mAP on VOC2012 val, Table 2: 88.43 on test.

    python -m oass_jax.main --config=ctopk_w --workdir=runs/ctopk_w

The mean of the five highest local maxima of every label's own map, weighted by their values.
"""

from oass_jax import default_config


def get_config():
    """Returns the configuration of OASS `ctopk_w`."""
    config = default_config.get_config()
    config.keypoint.strategy = "ctopk_w"
    return config
