"""OASS, `gt-bbox`, with CSI. Tables 1 and 3: 92.62 mAP on VOC2012 val with ResNet-50.

    python -m oass_jax.main --config=gt_bbox_csi --workdir=runs/gt_bbox_csi

As `gt_bbox.py`, and class-specific instances are classified along; their logits are the prediction.
"""

from oass_jax import config_file


def get_config():
    """Returns the configuration of OASS `gt_bbox` with CSI."""
    config = config_file.load("gt_bbox")
    config.model.csi = True
    config.eval.logits = "csi"
    return config
