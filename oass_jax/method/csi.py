"""Class-specific instances (Sec. 2.2): features masked by each class's map, classified one by one.

The paper masks the features with each class map, `M_c * f`, and classifies each of the C results
with a 1x1 convolution to one channel. Since the mask is one number a cell, it can be applied after
the convolution instead: `w_c . (M_c * f) + b_c = M_c * (w_c . f) + b_c`. That is C channels in
place of C times D, and equal.
"""

import jax

EPSILON = 1e-5


def class_mask(cam: jax.Array) -> jax.Array:
    """M: the class maps, each divided by its own maximum, as constants.

    Deviation: the paper does not say how maps become masks. This is PuzzleCAM's normalisation, in
    [0, 1]; a map without a positive value masks everything. No gradient goes through the mask: it
    is where to look, and is trained by the losses of the maps themselves.

    Args:
      cam: `[B, h, w, C]` float, raw class maps.

    Returns:
      `[B, h, w, C]` float, in [0, 1].
    """
    response = jax.nn.relu(jax.lax.stop_gradient(cam))
    highest = response.max(axis=(1, 2), keepdims=True)
    return jax.nn.relu(response - EPSILON) / (highest + EPSILON)


def instance_maps(projection: jax.Array, mask: jax.Array, bias: jax.Array) -> jax.Array:
    """The logits map of each class on its own instance: `M_c * (w_c . f) + b_c`.

    Args:
      projection: `[B, h, w, C]`, `w_c . f` of every class.
      mask: `[B, h, w, C]` from `class_mask`.
      bias: `[C]`.

    Returns:
      `[B, h, w, C]`.
    """
    return mask * projection + bias
