"""PuzzleCAM as plain PyTorch: torchvision's ResNet with output stride 16, cut, merge and losses."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

STAGE_STRIDES = (1, 2, 2, 1)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class BasicBlock(nn.Module):
    """3x3, 3x3 with a shortcut; the stride sits in the first."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps x [B, inputs, h, w] to [B, width, ceil(h / stride), ceil(w / stride)]."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a shortcut; the stride sits in the 3x3 (torchvision's "v1.5")."""

    expansion = 4
    strided = "conv2"

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        outputs = self.expansion * width
        strides = {"conv1": 1, "conv2": 1} | {self.strided: stride}
        self.conv1 = nn.Conv2d(inputs, width, 1, strides["conv1"], bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, strides["conv2"], padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps x [B, inputs, h, w] to [B, 4 width, ceil(h / stride), ceil(w / stride)]."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class BottleneckV1(Bottleneck):
    """The stride sits in the first 1x1, as in the original."""

    strided = "conv1"


class ResNet(nn.Module):
    """torchvision's, without the classifier; `layer4` has stride 1 and nothing is dilated."""

    def __init__(self, stage_sizes: Sequence[int], width: int, block: type[nn.Module] = Bottleneck):
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


def like(encoder: Any) -> ResNet:
    """The counterpart of a `ResNet` of `oass_jax.model.resnet`; its blocks have the same names."""
    return ResNet(encoder.stage_sizes, encoder.width, globals()[encoder.block.__name__])


class Network(nn.Module):
    """The encoder, and a 1x1 convolution without bias from its features to class maps."""

    def __init__(self, encoder: ResNet, num_classes: int):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Conv2d(encoder.num_features, num_classes, 1, bias=False)

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


def supervised(
    network: nn.Module, images: torch.Tensor, label: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The loss of normalised images [B, 3, H, W] with float labels [B, C]."""
    return {"loss": classification(network(images), label)}


def puzzlecam(
    network: nn.Module,
    images: torch.Tensor,
    label: torch.Tensor,
    *,
    alpha_p: float,
    alpha_re: float,
) -> dict[str, torch.Tensor]:
    """PuzzleCAM's losses, their weighted sum as `loss`; arguments as of `supervised`."""
    cam = network(images)
    cam_re = merge(network(cut(images)))
    parts = {
        "loss_cls": classification(cam, label),
        "loss_pcl": classification(cam_re, label),
        "loss_re": ((cam - cam_re).abs() * label[:, :, None, None]).mean(),
    }
    total = parts["loss_cls"] + alpha_p * parts["loss_pcl"] + alpha_re * parts["loss_re"]
    return parts | {"loss": total}


class Step:
    """A training step, its network and optimiser, and a batch on the device."""

    def __init__(
        self,
        network: Network,
        losses: Callable[..., dict[str, torch.Tensor]],
        pixels: torch.Tensor,
        label: torch.Tensor,
        *,
        encoder_rate: float,
        head_rate: float,
        weight_decay: float,
        dtype: str,
        compiled: bool,
    ):
        """Prepares a step; nothing has run or compiled yet.

        Args:
          network: on the device of the batch; trained in place.
          losses: `supervised` or `puzzlecam` with its weights.
          pixels: `[B, H, W, 3]` uint8.
          label: `[B, C]` float.
          encoder_rate: learning rate of the encoder.
          head_rate: learning rate of the head.
          weight_decay: of kernels.
          dtype: float32 or bfloat16, by autocast.
          compiled: whether by `torch.compile`.
        """
        self._network = network.train()
        self._losses = torch.compile(losses) if compiled else losses
        self._pixels, self._label = pixels, label
        self._autocast = torch.autocast(
            pixels.device.type, torch.bfloat16, enabled=dtype == "bfloat16"
        )
        groups = []
        for part, rate in ((network.encoder, encoder_rate), (network.head, head_rate)):
            for is_kernel in (False, True):
                parameters = [p for p in part.parameters() if (p.ndim > 1) == is_kernel]
                decay = weight_decay if is_kernel else 0.0
                groups.append({"params": parameters, "lr": rate, "weight_decay": decay})
        self._optimizer = torch.optim.AdamW(groups, fused=True)

    def run(self) -> dict[str, torch.Tensor]:
        """One step; its losses, which a GPU may still be computing."""
        self._optimizer.zero_grad(set_to_none=True)
        with self._autocast:
            losses = self._losses(self._network, normalise(self._pixels), self._label)
        losses["loss"].backward()
        self._optimizer.step()
        return losses
