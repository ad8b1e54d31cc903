"""OASS, `cMax`, with CSI. Table 3: 92.08 mAP on VOC2012 val with ResNet-50.

    python -m oass_jax.main --config=cmax_csi --workdir=runs/cmax_csi

As `cmax.py`, and class-specific instances are classified along; their logits are the prediction.
"""

from oass_jax import config_file


def get_config():
    """Returns the configuration of OASS `cmax` with CSI."""
    config = config_file.load("cmax")
    config.model.csi = True
    config.eval.logits = "csi"
    return config
