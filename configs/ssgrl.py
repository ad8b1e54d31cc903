"""SSGRL. Table 1: 91.4 mAP on VOC2012 val with ResNet-50.

    python -m oass_jax.main --config=ssgrl --workdir=runs/ssgrl

Semantic decoupling and a gated graph network over the classes, whose edges are counted from the
training labels. Label vectors are learned, or read from `--config.model.label_vectors`; optimiser
and input are those of the other rows, not those of its authors (only `layer4` and the classifier
trained, at 1e-5, on 576 px).
"""

from oass_jax import config_file


def get_config():
    """Returns the configuration of SSGRL."""
    config = config_file.load("supervised")
    config.model.graph = True
    config.eval.logits = "graph"
    return config
