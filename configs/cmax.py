"""OASS, `cMax`, without CSI. Table 3: 91.58 mAP on VOC2012 val with ResNet-50.

    python -m oass_jax.main --config=cmax --workdir=runs/cmax

The peak of every label's own map: one cut, one teacher pass and one pair of losses a label.
"""

from oass_jax import default_config


def get_config():
    """Returns the configuration of OASS `cmax`."""
    config = default_config.get_config()
    config.keypoint.strategy = "cmax"
    return config
