"""The encoder f: torchvision's ResNet with output stride 16, channels last.

Strides are 2, 2, 2, 1 over the stem, `layer2`, `layer3` and `layer4`; with the max-pool that makes
16. Nothing is dilated. Modules are named so that a torchvision key maps to a flax path by rule
(see `pretrained.py`), and convolutions pad symmetrically as torch does, which 'SAME' does not at
stride 2.
"""

import functools
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

EXPANSION = 4  # output channels of a bottleneck over its inner width
STAGE_STRIDES = (1, 2, 2, 1)  # torchvision's, but for the last

kaiming_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

# torch counts momentum from the other end: 0.1 there is 0.9 here.
BatchNorm = partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5)


def spatial_conv(features: int, size: int, stride: int, dtype: Any, name: str) -> nn.Conv:
    """A `size` x `size` convolution without bias, padded by `size // 2` on every side."""
    return nn.Conv(
        features,
        (size, size),
        strides=stride,
        padding=size // 2,
        use_bias=False,
        dtype=dtype,
        kernel_init=kaiming_normal_fan_out,
        name=name,
    )


def max_pool(x: jax.Array) -> jax.Array:
    """The largest of 3x3 at stride 2, padded by one: half the height and width, rounded up.

    A chain of selects along each axis, whose gradient is selects again; that of XLA's own pooling
    is a scatter. Of equal values the first along an axis gets the gradient; NaN stays NaN.
    """
    for axis in (1, 2):
        size = -(-x.shape[axis] // 2)
        padding = [(0, 0)] * 4
        padding[axis] = (1, 1)
        x = jnp.pad(x, padding, constant_values=-jnp.inf)
        taps = [jax.lax.slice_in_dim(x, i, i + 2 * size - 1, 2, axis) for i in range(3)]
        x = functools.reduce(lambda a, b: jnp.where((b > a) | jnp.isnan(b), b, a), taps)
    return x


def flat_dot(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[..., in] times [in, out], computed in two dimensions.

    On a CPU XLA takes far longer for the gradient of the kernel where x has four.
    """
    result = jnp.dot(x.reshape(-1, x.shape[-1]), kernel)
    return result.reshape(*x.shape[:-1], -1)


class PointwiseConv(nn.Module):
    """A 1x1 convolution without bias, computed as a dot: XLA's CPU convolution is far slower.

    The parameter is `nn.Conv`'s: `kernel` float32 [1, 1, in, features].

    Attributes:
      features: Output channels.
      stride: Step in both directions. The input is sliced first, so skipped cells cost nothing.
      dtype: Of the computation and the result.
    """

    features: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [B, h, w, in] to [B, ceil(h / stride), ceil(w / stride), features]."""
        shape = (1, 1, x.shape[-1], self.features)
        kernel = self.param("kernel", kaiming_normal_fan_out, shape, jnp.float32)
        if self.stride > 1:
            # XLA's GPU compiler aborts where it fuses the slice into the product's gradient
            # (github.com/openxla/xla/issues/47381).
            x = jax.lax.optimization_barrier(x[:, :: self.stride, :: self.stride])
        return flat_dot(x.astype(self.dtype), kernel[0, 0].astype(self.dtype))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a shortcut; the stride sits in the 3x3 (torchvision's "v1.5").

    Attributes:
      width: Channels inside; the result has `EXPANSION` times as many.
      stride: Of the block.
      dtype: Of the computation and the result.
    """

    width: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps x [B, h, w, in] to [B, ceil(h / stride), ceil(w / stride), EXPANSION * width]."""
        pointwise = partial(PointwiseConv, dtype=self.dtype)
        norm = partial(BatchNorm, use_running_average=not train, dtype=self.dtype)
        features = EXPANSION * self.width

        y = nn.relu(norm(name="bn1")(pointwise(self.width, 1, name="conv1")(x)))
        y = spatial_conv(self.width, 3, self.stride, self.dtype, "conv2")(y)
        y = nn.relu(norm(name="bn2")(y))
        y = norm(name="bn3")(pointwise(features, 1, name="conv3")(y))

        if self.stride != 1 or x.shape[-1] != features:
            x = pointwise(features, self.stride, name="downsample_conv")(x)
            x = norm(name="downsample_bn")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Bottleneck ResNet without the classifier.

    Batch normalisation in training takes its statistics over the whole batch it is given: under
    `jax.jit` with a batch sharded over devices, that is the global batch.

    Deviation: torch keeps the unbiased running variance, flax the biased one, n / (n - 1) smaller
    for n values a channel. At the smallest layer of the paper's setting n = 32 * 32 * 32.

    Attributes:
      stage_sizes: Blocks in each of the four stages.
      width: Channels of the stem and inside the first stage; doubled in every later stage.
      dtype: Of the computation and the features, float32 or bfloat16. Parameters and statistics
        are float32 either way.
      remat: Keep only what goes into each block for the backward pass and compute the rest again.
    """

    stage_sizes: Sequence[int]
    width: int
    dtype: Any
    remat: bool = False

    @property
    def num_features(self) -> int:
        """D, the channels of the result."""
        return EXPANSION * self.width * 2 ** (len(STAGE_STRIDES) - 1)

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Encodes images.

        Args:
          images: Normalised, [B, H, W, 3], any float type.
          train: Normalise by the batch and update `batch_stats` (which must then be mutable),
            or normalise by the running statistics.

        Returns:
          Features [B, ceil(H / 16), ceil(W / 16), D] of type `dtype`.
        """
        x = images.astype(self.dtype)
        x = spatial_conv(self.width, 7, 2, self.dtype, "conv1")(x)
        x = BatchNorm(use_running_average=not train, dtype=self.dtype, name="bn1")(x)
        x = max_pool(nn.relu(x))

        def run(block: Bottleneck, x: jax.Array) -> jax.Array:
            return block(x, train=train)

        run = nn.remat(run) if self.remat else run
        for i, (size, stride) in enumerate(zip(self.stage_sizes, STAGE_STRIDES, strict=True)):
            for j in range(size):
                block = Bottleneck(
                    width=self.width * 2**i,
                    stride=stride if j == 0 else 1,
                    dtype=self.dtype,
                    name=f"layer{i + 1}_{j}",
                )
                x = run(block, x)
        return x


# Name -> constructor that takes `dtype` and `remat`. The tiny one learns 96 px scenes from scratch
# on a CPU.
ENCODERS = {
    "resnet50": partial(ResNet, stage_sizes=(3, 4, 6, 3), width=64),
    "resnet101": partial(ResNet, stage_sizes=(3, 4, 23, 3), width=64),
    "resnet_tiny": partial(ResNet, stage_sizes=(1, 1, 1, 1), width=16),
}
