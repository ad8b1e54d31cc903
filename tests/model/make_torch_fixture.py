"""Writes torch_resnet_tiny.safetensors: what plain torch computes with a small ResNet.

Run by hand where torch is installed; the tests only read the file.

    python -m tests.model.make_torch_fixture
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.torch_resnet import ResNet

OUTPUT = Path(__file__).with_name("torch_resnet_tiny.safetensors")
STAGE_SIZES, WIDTH = (1, 2, 1, 1), 4
GRADIENTS = ("conv1.weight", "layer2.0.conv2.weight", "layer2.0.downsample.0.weight", "bn1.weight")


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
