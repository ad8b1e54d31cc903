"""OASS, `cTopk`, without CSI. Table 3: 92.21 mAP on VOC2012 val with ResNet-50.

    python -m oass_jax.main --config=ctopk --workdir=runs/ctopk

The mean of the five highest local maxima of every label's own map.
"""

from oass_jax import default_config


def get_config():
    """Returns the configuration of OASS `ctopk`."""
    config = default_config.get_config()
    config.keypoint.strategy = "ctopk"
    return config
