"""OASS, `cTopk`, with CSI. Table 3: 92.05 mAP on VOC2012 val with ResNet-50.

    python -m oass_jax.main --config=ctopk_csi --workdir=runs/ctopk_csi

As `ctopk.py`, and class-specific instances are classified along; their logits are the prediction.
"""

from oass_jax import config_file


def get_config():
    """Returns the configuration of OASS `ctopk` with CSI."""
    config = config_file.load("ctopk")
    config.model.csi = True
    config.eval.logits = "csi"
    return config
