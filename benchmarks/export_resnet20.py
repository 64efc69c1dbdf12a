"""ResNet-20 of CIFAR-10 as TorchScript, whose 64 pooled outputs a Frechet distance may be taken on.

    python benchmarks/export_resnet20.py resnet20_cifar10.npz resnet20_cifar10.pt
    flowpairs evaluate RUN features=resnet20_cifar10.pt

He et al., arXiv 1512.03385, section 4.2: three stages of three blocks, shortcuts without weights (option A). The arrays
are named as in github.com/akamaster/pytorch_resnet_cifar10.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in [0, 1], as it was trained


class Block(nn.Module):
    """Two convolutions beside the identity, which takes every other pixel where they halve the image."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride, self.more = (1, 0) if inputs == outputs else (2, (outputs - inputs) // 2)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """One residual step."""
        h = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(h + pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more, self.more)))


class ResNet20(nn.Module):
    """64 pooled outputs an image; `linear` makes logits of them."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = stage(16, 16)
        self.layer2 = stage(16, 32)
        self.layer3 = stage(32, 64)
        self.linear = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Features of images in [-1, 1]."""
        x = ((images + 1) / 2 - self.mean) / self.std
        h = relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(h))).mean((2, 3))


def stage(inputs: int, outputs: int) -> nn.Sequential:
    """Three blocks, the first of which widens."""
    return nn.Sequential(Block(inputs, outputs), Block(outputs, outputs), Block(outputs, outputs))


def export(arrays: Path, script: Path) -> None:
    """Write the network with the weights of a .npz file as TorchScript."""
    network = ResNet20()
    with np.load(arrays, allow_pickle=False) as file:
        network.load_state_dict({name: torch.from_numpy(file[name]) for name in file})
    torch.jit.save(torch.jit.trace(network.eval(), torch.zeros(2, 3, 32, 32)), script)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arrays", type=Path, help="the weights, a .npz file")
    parser.add_argument("script", type=Path, help="the TorchScript file to write")
    options = parser.parse_args()
    export(options.arrays, options.script)


if __name__ == "__main__":
    main()
