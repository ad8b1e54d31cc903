"""The encoders there are, by name; reading the names needs no jax.

An encoder is a `flax.linen` module that maps normalised images [B, H, W, 3] to features
[B, h, w, D], called as `encoder(images, train=...)`. It is initialised at one size and applied at
others: images and evaluation scales of whole cells, and patches of half an image's sides, which is
therefore a multiple of `2 * stride`. So no parameter has a shape that depends on H and W: a table
of positions keeps its size and is interpolated. Images are normalised by ImageNet's mean and
standard deviation. There are no random keys: no dropout. It offers

    stride: pixels a cell, in both directions: h = H / stride
    num_features: D
    foreign_name(path): optional; the name that a file of pretrained weights has for the variable at
      `path` below the encoder, such as ('conv1', 'kernel'). Without it no such file can be loaded.
      A file has to have each part, the first word of a name, wholly or not at all.

Any normalisation layer will do; only batch normalisation brings the collection 'batch_stats'.

A new encoder is a file beside this one and an entry in `ENCODERS`: a class or function that takes
`dtype`, of the computation and the features, and `remat`, to compute activations twice instead of
keeping them.
"""

import importlib
from typing import Any

from oass_jax.errors import UserError, nearest

ENCODERS = {
    "resnet18": "oass_jax.model.resnet:resnet18",
    "resnet34": "oass_jax.model.resnet:resnet34",
    "resnet50": "oass_jax.model.resnet:resnet50",
    "resnet50_v1": "oass_jax.model.resnet:resnet50_v1",
    "resnet101": "oass_jax.model.resnet:resnet101",
    "resnet_tiny": "oass_jax.model.resnet:resnet_tiny",
}


def create(name: str, *, dtype: Any, remat: bool = False) -> Any:
    """Builds an encoder, a `flax.linen` module; the file it is in is imported only now.

    Args:
      name: one of `ENCODERS`.
      dtype: of the computation and the features; parameters are float32.
      remat: compute activations twice instead of keeping them.

    Raises:
      UserError: there is no such encoder.
    """
    if name not in ENCODERS:
        raise UserError(f"{name} is not an encoder: {nearest(name, ENCODERS)}")
    module, _, function = ENCODERS[name].partition(":")
    return getattr(importlib.import_module(module), function)(dtype=dtype, remat=remat)
