"""Writes torch_resnet_*.safetensors: what plain torch computes with small ResNets of each block.

Run by hand where torch is installed; the tests only read the files.

    python -m tests.model.make_torch_fixture
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.torch_resnet import BasicBlock, Bottleneck, BottleneckV1, ResNet

FOLDER = Path(__file__).parent
# Name -> network, and shape of the images.
FIXTURES = {
    "tiny": ((1, 2, 1, 1), 4, Bottleneck, (3, 3, 49, 33)),
    "v1": ((1, 1, 1, 1), 2, BottleneckV1, (2, 3, 17, 19)),
    "basic": ((1, 2, 1, 1), 2, BasicBlock, (2, 3, 17, 19)),
}
GRADIENTS = ("conv1.weight", "layer2.0.conv2.weight", "layer2.0.downsample.0.weight", "bn1.weight")


def randomise_norms(model):
    """Scales, biases and running statistics that an error cannot hide behind."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


def computed(stage_sizes, width, block, shape):
    """Weights, images, features in both modes, gradients and moved statistics."""
    torch.manual_seed(0)
    model = ResNet(stage_sizes, width, block)
    randomise_norms(model)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.randn(shape)
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
    for name in ("bn1", "layer4.0.bn2" if block is BasicBlock else "layer4.0.bn3"):
        for statistic in ("running_mean", "running_var"):
            tensors[f"train/{name}.{statistic}"] = model.state_dict()[f"{name}.{statistic}"]
    return tensors


def main():
    for name, network in FIXTURES.items():
        save_file(computed(*network), FOLDER / f"torch_resnet_{name}.safetensors")


if __name__ == "__main__":
    main()
