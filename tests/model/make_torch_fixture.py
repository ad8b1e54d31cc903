"""Writes torch_resnet_tiny.safetensors: what plain torch computes with a small ResNet.

Run by hand where torch is installed; the tests only read the file.

    python tests/model/make_torch_fixture.py
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

OUTPUT = Path(__file__).with_name("torch_resnet_tiny.safetensors")
STAGE_SIZES, STAGE_STRIDES, WIDTH, EXPANSION = (1, 2, 1, 1), (1, 2, 2, 1), 4, 4
GRADIENTS = ("conv1.weight", "layer2.0.conv2.weight", "layer2.0.downsample.0.weight", "bn1.weight")


class Bottleneck(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        outputs = EXPANSION * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, stage_sizes, width):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        inputs = width
        for i, (size, stride) in enumerate(zip(stage_sizes, STAGE_STRIDES, strict=True)):
            blocks = []
            for j in range(size):
                blocks.append(Bottleneck(inputs, width * 2**i, stride if j == 0 else 1))
                inputs = EXPANSION * width * 2**i
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))

    def forward(self, x):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def randomise_norms(model):
    """Scales, biases and running statistics that a mistake cannot hide behind."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


def main():
    torch.manual_seed(0)
    model = ResNet(STAGE_SIZES, WIDTH)
    randomise_norms(model)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.randn(3, 3, 49, 33)
    tensors["images"] = images

    model.eval()
    with torch.no_grad():
        tensors["eval/features"] = model(images)

    model.train()
    features = model(images)
    tensors["train/features"] = features.detach()
    # A fixed random direction, so that batch normalisation does not cancel the gradient.
    tensors["train/direction"] = torch.randn_like(features)
    (features * tensors["train/direction"]).sum().backward()
    parameters = dict(model.named_parameters())
    tensors |= {f"grad/{name}": parameters[name].grad for name in GRADIENTS}
    for name in ("bn1", "layer4.0.bn3"):
        for statistic in ("running_mean", "running_var"):
            tensors[f"train/{name}.{statistic}"] = model.state_dict()[f"{name}.{statistic}"]
    save_file(tensors, OUTPUT)


if __name__ == "__main__":
    main()
