"""PuzzleCAM as plain PyTorch: torchvision's ResNet with output stride 16, cut, merge and losses."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

STAGE_STRIDES = (1, 2, 2, 1)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Block(nn.Module):
    """Convolutions with a shortcut; torchvision's names, so `conv1`, `bn1`, and so on.

    Attributes:
      sizes: of the kernels.
      strided: index of the convolution that has the stride.
      expansion: outputs of the last convolution to those of the others.
    """

    sizes: tuple[int, ...]
    strided: int
    expansion: int

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        outputs = self.expansion * width
        widths = [inputs, *[width] * (len(self.sizes) - 1), outputs]
        for i, size in enumerate(self.sizes):
            own = stride if i == self.strided else 1
            conv = nn.Conv2d(*widths[i : i + 2], size, own, padding=size // 2, bias=False)
            self.add_module(f"conv{i + 1}", conv)
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(widths[i + 1]))
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps x [B, inputs, h, w] to [B, outputs, ceil(h / stride), ceil(w / stride)]."""
        y = x
        for i in range(1, len(self.sizes) + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < len(self.sizes):
                y = self.relu(y)
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class BasicBlock(Block):
    """3x3, 3x3; the stride sits in the first."""

    sizes, strided, expansion = (3, 3), 0, 1


class Bottleneck(Block):
    """1x1, 3x3, 1x1; the stride sits in the 3x3 (torchvision's "v1.5")."""

    sizes, strided, expansion = (1, 3, 1), 1, 4


class BottleneckV1(Block):
    """1x1, 3x3, 1x1; the stride sits in the first 1x1, as in the original."""

    sizes, strided, expansion = (1, 3, 1), 0, 4


class ResNet(nn.Module):
    """torchvision's, without the classifier; `layer4` has stride 1 and nothing is dilated."""

    def __init__(self, stage_sizes: Sequence[int], width: int, block: type[Block] = Bottleneck):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        inputs = width
        for i, (size, stride) in enumerate(zip(stage_sizes, STAGE_STRIDES, strict=True)):
            blocks = []
            for j in range(size):
                blocks.append(block(inputs, width * 2**i, stride if j == 0 else 1))
                inputs = block.expansion * width * 2**i
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.num_features = inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Encodes normalised images [B, 3, H, W] as features [B, D, H / 16, W / 16]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class Network(nn.Module):
    """The encoder, and a 1x1 convolution without bias from its features to class maps."""

    def __init__(self, encoder: Any, num_classes: int):
        """Makes the counterpart of an encoder.

        Args:
          encoder: a `ResNet` of `oass_jax.model.resnet`; its blocks have the same names.
          num_classes: C.
        """
        super().__init__()
        block = globals()[encoder.block.__name__]
        self.encoder = ResNet(encoder.stage_sizes, encoder.width, block)
        self.head = nn.Conv2d(self.encoder.num_features, num_classes, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps normalised images [B, 3, H, W] to class maps [B, C, H / 16, W / 16]."""
        return self.head(self.encoder(x))


def normalise(images: torch.Tensor) -> torch.Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] with ImageNet's statistics, channels last."""
    mean, std = (
        torch.tensor(values, device=images.device)[:, None, None]
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std


def cut(images: torch.Tensor) -> torch.Tensor:
    """The even quarters of images: [B, 3, H, W] -> [4 B, 3, H / 2, W / 2]."""
    upper, lower = images.chunk(2, dim=2)
    return torch.cat([*upper.chunk(2, dim=3), *lower.chunk(2, dim=3)])


def merge(maps: torch.Tensor) -> torch.Tensor:
    """The maps of what `cut` returns, side by side again: [4 B, C, p, q] -> [B, C, 2 p, 2 q]."""
    upper_left, upper_right, lower_left, lower_right = maps.chunk(4)
    upper = torch.cat([upper_left, upper_right], dim=3)
    return torch.cat([upper, torch.cat([lower_left, lower_right], dim=3)], dim=2)


def classification(cam: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of the mean of maps [B, C, h, w] with float labels [B, C]."""
    return functional.binary_cross_entropy_with_logits(cam.mean((2, 3)), label)


def puzzlecam(
    network: nn.Module,
    images: torch.Tensor,
    label: torch.Tensor,
    *,
    alpha_p: float,
    alpha_re: float,
) -> dict[str, torch.Tensor]:
    """PuzzleCAM's losses of normalised images [B, 3, H, W] with float labels [B, C].

    Returns:
      Each, and their weighted sum as `loss`.
    """
    cam = network(images)
    cam_re = merge(network(cut(images)))
    parts = {
        "loss_cls": classification(cam, label),
        "loss_pcl": classification(cam_re, label),
        "loss_re": ((cam - cam_re).abs() * label[:, :, None, None]).mean(),
    }
    total = parts["loss_cls"] + alpha_p * parts["loss_pcl"] + alpha_re * parts["loss_re"]
    return parts | {"loss": total}


def parameter_groups(network: Network, optimizer: Any) -> list[dict[str, Any]]:
    """The learning rates of encoder and head in a config's `optimizer`; kernels alone decay."""
    parts = [(network.encoder, optimizer.encoder_learning_rate)]
    parts += [(network.head, optimizer.head_learning_rate)]
    groups = []
    for part, rate in parts:
        for is_kernel in (False, True):
            parameters = [p for p in part.parameters() if (p.ndim > 1) == is_kernel]
            decay = optimizer.weight_decay if is_kernel else 0.0
            groups.append({"params": parameters, "lr": rate, "weight_decay": decay})
    return groups
