"""OASS, `Max`, with CSI. Tables 1 and 3: 92.45 mAP on VOC2012 val, Table 2: 84.27 on test.

    python -m oass_jax.main --config=max_csi --workdir=runs/max_csi

As `max.py`, and class-specific instances are classified along; their logits are the prediction.
"""

from oass_jax import config_file


def get_config():
    """Returns the configuration of OASS `max` with CSI."""
    config = config_file.load("max")
    config.model.csi = True
    config.eval.logits = "csi"
    return config
