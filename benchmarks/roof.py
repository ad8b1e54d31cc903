"""The cost model: what a training step would take if every kernel ran at the device's own limit.

A kernel takes the longer of two times: its arithmetic at the rate of a large matrix product, and
its traffic at the rate of a large copy. Kernels are the convolutions in both directions, each pass
of batch normalisation with ReLU and the sum of a shortcut on the way, and the max-pool. What is not
the encoder (augmentation, geometry, head, optimiser) counts nothing, so the share of the roof that
a step reaches also shows what those cost.
"""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple


class Limits(NamedTuple):
    """A device's own limits.

    Attributes:
      flops: floating point operations a second of a large matrix product.
      bandwidth: bytes a second, read and written, of a large copy.
    """

    flops: float
    bandwidth: float


class Conv(NamedTuple):
    """A convolution of one image, with the normalisation that follows.

    Attributes:
      macs: multiply-adds forward.
      read: values of its input that are used.
      written: values of its output.
      weights: values of its kernel.
      first: whether its input is the image, which needs no gradient, and a max-pool follows.
      last: whether the sum of the shortcut follows.
    """

    macs: int
    read: int
    written: int
    weights: int
    first: bool = False
    last: bool = False


def convolutions(encoder: Any, image_px: int) -> Iterator[Conv]:
    """The convolutions of a ResNet, from image to features.

    Args:
      encoder: of `oass_jax.model.resnet`.
      image_px: side of the image, a multiple of 16.
    """
    from oass_jax.model import resnet

    def conv(cells: int, ins: int, outs: int, size: int, stride: int, **place: bool) -> Conv:
        # A 1x1 convolution with a stride reads only the cells it uses.
        read = ins * cells**2 * (1 if size == 1 else stride**2)
        weights = ins * outs * size**2
        return Conv(weights * cells**2, read, outs * cells**2, weights, **place)

    cells = image_px // 2
    yield conv(cells, 3, encoder.width, 7, 2, first=True)
    cells, ins = cells // 2, encoder.width
    stages = zip(encoder.stage_sizes, resnet.STAGE_STRIDES, strict=True)
    for number, (blocks, stage_stride) in enumerate(stages):
        width = encoder.width * 2**number
        outs = encoder.block.expansion * width
        for block in range(blocks):
            stride = stage_stride if block == 0 else 1
            if issubclass(encoder.block, resnet.Bottleneck):
                in_conv1 = stride if encoder.block.strided == "conv1" else 1
                yield conv(cells // in_conv1, ins, width, 1, in_conv1)
                cells //= stride
                yield conv(cells, width, width, 3, stride // in_conv1)
                yield conv(cells, width, outs, 1, 1, last=True)
            else:
                cells //= stride
                yield conv(cells, ins, width, 3, stride)
                yield conv(cells, width, outs, 3, 1, last=True)
            if stride != 1 or ins != outs:
                yield conv(cells, ins, outs, 1, stride)
            ins = outs


def forward_flops(encoder: Any, image_px: int) -> int:
    """F: floating point operations of one image's forward pass."""
    return 2 * sum(conv.macs for conv in convolutions(encoder, image_px))


def pass_seconds(
    encoder: Any, image_px: int, batch_size: int, itemsize: int, limits: Limits
) -> dict[str, float]:
    """Minimum times of a batch's passes through the encoder.

    Args:
      encoder: of `oass_jax.model.resnet`.
      image_px: side of the image.
      batch_size: B.
      itemsize: bytes of an activation.
      limits: of the device.

    Returns:
      Seconds of `teacher` (running statistics), `forward` (the batch's) and `backward`.
    """

    def kernel(flops: float, values: float) -> float:
        return max(flops / limits.flops, values * itemsize / limits.bandwidth)

    seconds = dict.fromkeys(("teacher", "forward", "backward"), 0.0)
    for conv in convolutions(encoder, image_px):
        read, written = batch_size * conv.read, batch_size * conv.written
        product = kernel(2 * batch_size * conv.macs, read + written + conv.weights)
        # Normalisation reads and writes; the sum reads the shortcut, too. Pooling writes a quarter.
        normalise = kernel(0, (2 + conv.last + 1.25 * conv.first) * written)
        seconds["teacher"] += product + normalise
        seconds["forward"] += product + normalise + kernel(0, written)  # and the statistics
        # Backwards, normalisation sums over its input and gradient, then reads both and writes one;
        # the sum reads its result and gradient and writes another; pooling reads 1.25, writes 1.
        normalise = kernel(0, (5 + 3 * conv.last + 2.25 * conv.first) * written)
        seconds["backward"] += product * (1 if conv.first else 2) + normalise
    return seconds


def step_passes(config: Any, pairs: float) -> dict[str, float]:
    """How often a method makes each pass over as many pixels as the batch has.

    Four resized patches have the pixels of their image.

    Args:
      config: of the method.
      pairs: labels of an image.

    Returns:
      Name of the pass, as in `pass_seconds` -> number.
    """
    from oass_jax.method import keypoint

    trained, teacher = 1.0 + config.regions.count, 0.0
    patches = 1.0 if config.teacher.resize_patches else 4.0
    if keypoint.KEYPOINTS[config.keypoint.strategy].channel_wise:
        patches *= pairs
    if config.teacher.mode == "siamese":
        trained += patches
    if config.teacher.mode == "ema":
        teacher = patches
    return {"teacher": teacher, "forward": trained, "backward": trained}


def step_seconds(config: Any, encoder: Any, pairs: float, limits: Limits) -> float:
    """The roof: the minimum time of a training step.

    Args:
      config: of the method.
      encoder: its encoder.
      pairs: labels of an image.
      limits: of the device.
    """
    itemsize = {"float32": 4, "bfloat16": 2}[config.model.dtype]
    min_s = pass_seconds(encoder, config.augment.image_px, config.batch_size, itemsize, limits)
    return sum(min_s[name] * number for name, number in step_passes(config, pairs).items())


def step_flops(config: Any, encoder: Any, pairs: float) -> float:
    """Floating point operations of an image's training step: 2.98 F of a supervised ResNet-50.

    Args:
      config: of the method.
      encoder: its encoder.
      pairs: labels of an image.
    """
    image_px = config.augment.image_px
    stem = 2 * next(convolutions(encoder, image_px)).macs
    forward = forward_flops(encoder, image_px)
    passes = step_passes(config, pairs)
    return (
        forward * (passes["teacher"] + passes["forward"])
        + (2 * forward - stem) * passes["backward"]
    )


def measure_limits(dtype: str) -> Limits:
    """Times a large matrix product and a large copy on the first device; best of several.

    Args:
      dtype: float32 or bfloat16.
    """
    import jax
    import jax.numpy as jnp

    on_cpu = jax.devices()[0].platform == "cpu"
    side, length = (2048, 2**25) if on_cpu else (8192, 2**28)
    product = jax.jit(lambda x: jnp.dot(x, x))
    copy = jax.jit(lambda x: x + jnp.ones((), x.dtype))

    def seconds(function: Any, x: Any) -> float:
        times = []
        for _ in range(6):
            began = time.perf_counter()
            jax.block_until_ready(function(x))
            times.append(time.perf_counter() - began)
        return min(times)

    matrix, vector = jnp.ones((side, side), dtype), jnp.ones(length, dtype)
    return Limits(
        flops=2 * side**3 / seconds(product, matrix),
        bandwidth=2 * vector.nbytes / seconds(copy, vector),
    )
