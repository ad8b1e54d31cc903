"""OASS, `cTopk-w`, with CSI. Tables 1 and 3: 92.20 mAP on VOC2012 val with ResNet-50.

    python -m oass_jax.main --config=configs/ctopk_w_csi.py --workdir=runs/ctopk_w_csi

As `ctopk_w.py`, and class-specific instances are classified along; their logits are the prediction.
"""

from configs import ctopk_w


def get_config():
    """Returns the configuration of OASS `ctopk_w` with CSI."""
    config = ctopk_w.get_config()
    config.model.csi = True
    config.eval.logits = "csi"
    return config
