"""The encoder f: torchvision's ResNet with output stride 16, channels last.

Strides are 2, 2, 2, 1 over the stem, `layer2`, `layer3` and `layer4`; with the max-pool that makes
16. Nothing is dilated. Modules are named so that a flax path maps to a torchvision key by rule
(`ResNet.foreign_name`), and convolutions pad symmetrically as torch does, which 'SAME' does not at
stride 2.
"""

import functools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

STEM_STRIDE = 4
STAGE_STRIDES = (1, 2, 2, 1)  # torchvision's, but for the last

# flax names -> torch names, where they differ by more than the dots.
LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
SHORTCUT = {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}

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

    Of equal values one gets the gradient, the first along an axis; NaN stays NaN.
    """
    return jax.lax.platform_dependent(x, tpu=pool_by_window, default=pool_by_selects)


def pool_by_window(x: jax.Array) -> jax.Array:
    """`max_pool` as XLA's own operation, whose gradient is a scatter."""
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def pool_by_selects(x: jax.Array) -> jax.Array:
    """`max_pool` as a chain of selects along each axis, whose gradient is selects again."""
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


def pointwise_by_product(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """A 1x1 convolution as a product; the input is sliced first, so skipped cells cost nothing."""
    if stride > 1:
        # XLA's GPU compiler aborts where it fuses the slice into the product's gradient
        # (github.com/openxla/xla/issues/47381).
        x = jax.lax.optimization_barrier(x[:, ::stride, ::stride])
    return flat_dot(x, kernel[0, 0])


def pointwise_by_convolution(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """A 1x1 convolution as such."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, "VALID", dimension_numbers=layout)


class PointwiseConv(nn.Module):
    """A 1x1 convolution without bias; on a CPU a product, where XLA's convolution is far slower.

    The parameter is `nn.Conv`'s: `kernel` float32 [1, 1, in, features].

    Attributes:
      features: Output channels.
      stride: Step in both directions.
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
        # Lowering for a platform takes its form alone, also where there is no such device.
        return jax.lax.platform_dependent(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            cpu=partial(pointwise_by_product, stride=self.stride),
            default=partial(pointwise_by_convolution, stride=self.stride),
        )


class Block(nn.Module):
    """A residual branch and its shortcut, which is a 1x1 convolution where the shape changes.

    Attributes:
      width: Channels inside; the result has `expansion` times as many.
      stride: Of the block.
      dtype: Of the computation and the result.
    """

    width: int
    stride: int
    dtype: Any

    expansion = 1

    def residual(self, x: jax.Array, norm: Callable[..., nn.Module]) -> jax.Array:
        """The branch up to its last normalisation; `norm` makes one, given its name."""
        raise NotImplementedError

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps x [B, h, w, in] to [B, ceil(h / stride), ceil(w / stride), expansion * width]."""
        norm = partial(BatchNorm, use_running_average=not train, dtype=self.dtype)
        y = self.residual(x, norm)
        if self.stride != 1 or x.shape[-1] != y.shape[-1]:
            x = PointwiseConv(y.shape[-1], self.stride, self.dtype, name="downsample_conv")(x)
            x = norm(name="downsample_bn")(x)
        return nn.relu(x + y)


class BasicBlock(Block):
    """3x3, 3x3; the stride sits in the first."""

    def residual(self, x: jax.Array, norm: Callable[..., nn.Module]) -> jax.Array:
        """See `Block`."""
        y = spatial_conv(self.width, 3, self.stride, self.dtype, "conv1")(x)
        y = nn.relu(norm(name="bn1")(y))
        return norm(name="bn2")(spatial_conv(self.width, 3, 1, self.dtype, "conv2")(y))


class Bottleneck(Block):
    """1x1, 3x3, 1x1; the stride sits in the 3x3 (torchvision's "v1.5")."""

    expansion = 4
    strided = "conv2"

    def residual(self, x: jax.Array, norm: Callable[..., nn.Module]) -> jax.Array:
        """See `Block`."""
        pointwise = partial(PointwiseConv, dtype=self.dtype)
        stride = {"conv1": 1, "conv2": 1} | {self.strided: self.stride}
        y = pointwise(self.width, stride["conv1"], name="conv1")(x)
        y = nn.relu(norm(name="bn1")(y))
        y = spatial_conv(self.width, 3, stride["conv2"], self.dtype, "conv2")(y)
        y = nn.relu(norm(name="bn2")(y))
        return norm(name="bn3")(pointwise(self.expansion * self.width, 1, name="conv3")(y))


class BottleneckV1(Bottleneck):
    """The original, whose stride sits in the first 1x1. Both have the same parameters."""

    strided = "conv1"


class ResNet(nn.Module):
    """ResNet without the classifier; an encoder as `model.encoders` describes it.

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
      block: What the stages are made of.
    """

    stage_sizes: Sequence[int]
    width: int
    dtype: Any
    remat: bool = False
    block: type[Block] = Bottleneck

    stride = STEM_STRIDE * math.prod(STAGE_STRIDES)

    @property
    def num_features(self) -> int:
        """D, the channels of the result."""
        return self.block.expansion * self.width * 2 ** (len(STAGE_STRIDES) - 1)

    @staticmethod
    def foreign_name(path: Sequence[str]) -> str:
        """The torchvision key of a variable, given its flax path below the encoder.

        A path is that of a parameter or of a running statistic:

            layer1_0/conv2/kernel         -> layer1.0.conv2.weight
            layer1_0/downsample_bn/scale  -> layer1.0.downsample.1.weight
            bn1/mean                      -> bn1.running_mean
        """
        *modules, leaf = path
        module = ".".join(SHORTCUT.get(name, name.replace("_", ".")) for name in modules)
        return f"{module}.{LEAVES[leaf]}"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Encodes images.

        Args:
          images: Normalised, [B, H, W, 3], any float type.
          train: Normalise by the batch and update `batch_stats` (which must then be mutable),
            or normalise by the running statistics.

        Returns:
          Features [B, ceil(H / stride), ceil(W / stride), D] of type `dtype`.
        """
        x = images.astype(self.dtype)
        x = spatial_conv(self.width, 7, 2, self.dtype, "conv1")(x)
        x = BatchNorm(use_running_average=not train, dtype=self.dtype, name="bn1")(x)
        x = max_pool(nn.relu(x))

        def run(block: Block, x: jax.Array) -> jax.Array:
            return block(x, train=train)

        run = nn.remat(run) if self.remat else run
        for i, (size, stride) in enumerate(zip(self.stage_sizes, STAGE_STRIDES, strict=True)):
            for j in range(size):
                block = self.block(
                    width=self.width * 2**i,
                    stride=stride if j == 0 else 1,
                    dtype=self.dtype,
                    name=f"layer{i + 1}_{j}",
                )
                x = run(block, x)
        return x


resnet18 = partial(ResNet, stage_sizes=(2, 2, 2, 2), width=64, block=BasicBlock)
resnet34 = partial(ResNet, stage_sizes=(3, 4, 6, 3), width=64, block=BasicBlock)
resnet50 = partial(ResNet, stage_sizes=(3, 4, 6, 3), width=64)
resnet50_v1 = partial(ResNet, stage_sizes=(3, 4, 6, 3), width=64, block=BottleneckV1)
resnet101 = partial(ResNet, stage_sizes=(3, 4, 23, 3), width=64)
# Learns 96 px scenes from scratch on a CPU.
resnet_tiny = partial(ResNet, stage_sizes=(1, 1, 1, 1), width=16)
