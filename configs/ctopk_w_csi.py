"""OASS, `cTopk-w`, with CSI. Tables 1 and 3: 92.20 mAP on VOC2012 val with ResNet-50.

    python -m oass_jax.main --config=ctopk_w_csi --workdir=runs/ctopk_w_csi

As `ctopk_w.py`, and class-specific instances are classified along; their logits are the prediction.
"""

from oass_jax import config_file


def get_config():
    """Returns the configuration of OASS `ctopk_w` with CSI."""
    config = config_file.load("ctopk_w")
    config.model.csi = True
    config.eval.logits = "csi"
    return config
