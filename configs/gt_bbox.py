"""OASS, `gt-bbox`, without CSI. Table 3: 92.65 mAP on VOC2012 val with ResNet-50.

    python -m oass_jax.main --config=gt_bbox --workdir=runs/gt_bbox

The mean centre of every label's boxes: an upper bound, since it is given where the objects are.
"""

from oass_jax import default_config


def get_config():
    """Returns the configuration of OASS `gt_bbox`."""
    config = default_config.get_config()
    config.keypoint.strategy = "gt_bbox"
    return config
