"""Encoder f and head g: images -> features -> class maps -> logits."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Network(nn.Module):
    """f and g of the paper's Fig. 3, usable together or apart.

    The training step needs them apart: the teacher is an encoder alone, and the student's head
    reads the teacher's features. Variables are
    `{'params': {'encoder', 'head'}, 'batch_stats': {'encoder'}}`.

    Attributes:
      encoder: f. Called as `encoder(images, train=...)`, gives features [B, h, w, D].
      num_classes: C.
    """

    encoder: nn.Module
    num_classes: int

    def setup(self) -> None:
        """Builds g; linen adopts f under its attribute's name."""
        # A 1x1 convolution without bias is a dense layer on every cell. The keypoint is an argmax
        # over its output, so it stays in full float32 where the hardware would round the factors.
        self.head = nn.Dense(
            self.num_classes,
            use_bias=False,
            dtype=jnp.float32,
            precision=jax.lax.Precision.HIGHEST,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
        )

    def encode(self, images: jax.Array, *, train: bool) -> jax.Array:
        """f: normalised images [B, H, W, 3] -> features [B, h, w, D] in the encoder's dtype."""
        return self.encoder(images, train=train)

    def classify(self, features: jax.Array) -> jax.Array:
        """g: features [B, h, w, D] -> raw class maps A, float32 [B, h, w, C]."""
        return self.head(features)

    def __call__(self, images: jax.Array, *, train: bool) -> dict[str, jax.Array]:
        """Runs f, g and the spatial mean.

        Args:
          images: Normalised, [B, H, W, 3].
          train: Whether batch normalisation uses and records the batch's statistics.

        Returns:
          `features` [B, h, w, D] in the encoder's dtype, `cam` float32 [B, h, w, C], the class
          maps before any ReLU, and `logits` float32 [B, C], their spatial mean.
        """
        features = self.encode(images, train=train)
        cam = self.classify(features)
        return {"features": features, "cam": cam, "logits": cam.mean(axis=(1, 2))}
