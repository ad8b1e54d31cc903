"""MCAR's two streams. Table 1: 90.04 mAP on VOC2012 val with ResNet-50.

    python -m oass_jax.main --config=mcar --workdir=runs/mcar

The regions of the four strongest classes are seen again at full size by the same network; both
streams are trained, and the higher score counts. Optimiser and input are those of the other rows,
not those of its authors (SGD; 448 px: --config.augment.image_px=448 --config.eval.image_px=448).
"""

from oass_jax import config_file


def get_config():
    """Returns the configuration of MCAR."""
    config = config_file.load("supervised")
    config.regions.count = 4
    config.eval.logits = "max"
    return config
