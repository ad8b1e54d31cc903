"""SSGRL with ResNet-101. Table 1: 91.9 mAP on VOC2012 val.

    python -m oass_jax.main --config=ssgrl_r101 --workdir=runs/ssgrl_r101

As `ssgrl.py`, with the deeper encoder.
"""

from oass_jax import config_file


def get_config():
    """Returns the configuration of SSGRL with ResNet-101."""
    config = config_file.load("ssgrl")
    config.model.encoder = "resnet101"
    config.model.pretrained = "timm/resnet101.tv_in1k"
    return config
