"""PuzzleCAM with ResNet-101. Table 1: 92.60 mAP on VOC2012 val.

    python -m oass_jax.main --config=puzzlecam_r101 --workdir=runs/puzzlecam_r101

As `puzzlecam.py`, with the deeper encoder.
"""

from oass_jax import config_file


def get_config():
    """Returns the configuration of PuzzleCAM with ResNet-101."""
    config = config_file.load("puzzlecam")
    config.model.encoder = "resnet101"
    config.model.pretrained = "timm/resnet101.tv_in1k"
    return config
