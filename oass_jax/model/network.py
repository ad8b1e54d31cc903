"""Encoder f and head g: images -> features -> class maps -> logits, with or without CSI."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from oass_jax.method import csi
from oass_jax.model.ssgrl import GraphHead

# The share of labels that are present, as CSI assumes before it has seen any: 0.08 on VOC.
RARE = 0.1

kernel_init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def _identity(key: jax.Array, shape: tuple[int, int], dtype: Any) -> jax.Array:
    del key
    return jnp.eye(*shape, dtype=dtype)


class ClassHead(nn.Module):
    """g: a 1x1 convolution without bias from features to class maps.

    The keypoint is an argmax over the maps, so they stay in full float32 where the hardware would
    round the factors.

    Attributes:
      num_classes: C.
    """

    num_classes: int

    @nn.compact
    def __call__(self, features: jax.Array, channel: jax.Array | None = None) -> jax.Array:
        """Features [N, h, w, D] -> maps [N, h, w, C], or [N, h, w, 1] of `channel` [N]; float32."""
        kernel = self.param("kernel", kernel_init, (features.shape[-1], self.num_classes))
        features, highest = features.astype(jnp.float32), jax.lax.Precision.HIGHEST
        if channel is None:
            return jnp.dot(features, kernel, precision=highest)
        own = jnp.einsum("nhwd,nd->nhw", features, kernel.T[channel], precision=highest)
        return own[..., None]


class InstanceHead(nn.Module):
    """The classifier of class-specific instances (Sec. 2.2), factored as in `method.csi`.

    Deviation: the paper does not say what its last convolution, from C to C, starts from. Here it
    is the identity, each class with its own instance, since a random mixture takes epochs to undo,
    and its bias makes labels rare. For a class without attention only the bias can do so, and
    from zero Adam needs thousands of steps for it.

    Attributes:
      num_classes: C.
    """

    num_classes: int

    @nn.compact
    def __call__(self, features: jax.Array, cam: jax.Array) -> jax.Array:
        """Features [B, h, w, D] and class maps [B, h, w, C] -> logits, float32 [B, C]."""
        dense = functools.partial(
            nn.Dense, self.num_classes, dtype=jnp.float32, precision=jax.lax.Precision.HIGHEST
        )
        # One 1x1 convolution from D channels to 1 for each class.
        projection = dense(use_bias=False, kernel_init=kernel_init, name="instance")(features)
        bias = self.param("instance_bias", nn.initializers.zeros, (self.num_classes,))
        maps = csi.instance_maps(projection, csi.class_mask(cam), bias)
        # The one from C to C is linear, so the mean over cells can be taken first.
        prior = nn.initializers.constant(math.log(RARE / (1.0 - RARE)))
        merge = dense(kernel_init=_identity, bias_init=prior, name="merge")
        return merge(maps.mean(axis=(1, 2)))


class Network(nn.Module):
    """f and g of the paper's Fig. 3, usable together or apart.

    The training step needs them apart: the teacher is an encoder alone, and the student's head
    reads the teacher's features. Variables are `{'params': {'encoder', 'head'}}`, and where they
    are used also `params['instance_head']`, `params['graph_head']` and, of an encoder with batch
    normalisation, `{'batch_stats': {'encoder'}}`.

    Attributes:
      encoder: f, as `model.encoders` describes it.
      num_classes: C.
      csi: Whether class-specific instances are classified, too.
      graph_head: SSGRL's classifier, in place of the class maps, which then read the features
        without teaching them; None for none.
    """

    encoder: nn.Module
    num_classes: int
    csi: bool = False
    graph_head: GraphHead | None = None

    def setup(self) -> None:
        """Builds g; linen adopts f under its attribute's name."""
        self.head = ClassHead(self.num_classes)
        if self.csi:
            self.instance_head = InstanceHead(self.num_classes)

    def encode(self, images: jax.Array, *, train: bool) -> jax.Array:
        """f: normalised images [B, H, W, 3] -> features [B, h, w, D] in the encoder's dtype."""
        return self.encoder(images, train=train)

    def classify(self, features: jax.Array, channel: jax.Array | None = None) -> jax.Array:
        """g: features -> raw class maps A, of every class or of one an example; see `ClassHead`."""
        return self.head(features, channel)

    def predict(self, features: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Everything that is predicted of an image.

        Args:
          features: [B, h, w, D].

        Returns:
          The class maps before any ReLU, float32 [B, h, w, C]; and by name float32 logits [B, C]:
          `base`, the spatial mean of the maps, and where they are used `csi` of the instances and
          `graph`.
        """
        has_graph = self.graph_head is not None
        cam = self.classify(jax.lax.stop_gradient(features) if has_graph else features)
        logits = {"base": cam.mean(axis=(1, 2))}
        if has_graph:
            logits["graph"] = self.graph_head(features)
        if self.csi:
            logits["csi"] = self.instance_head(features, cam)
        return cam, logits

    def __call__(self, images: jax.Array, *, train: bool) -> dict[str, Any]:
        """Runs f, g and what else classifies.

        Args:
          images: Normalised, [B, H, W, 3].
          train: Whether the encoder trains: batch normalisation then uses the batch's statistics
            and records them.

        Returns:
          `features` [B, h, w, D] in the encoder's dtype, and `cam` and `logits` of `predict`.
        """
        features = self.encode(images, train=train)
        cam, logits = self.predict(features)
        return {"features": features, "cam": cam, "logits": logits}
