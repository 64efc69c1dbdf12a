"""A network of your own: diffusers' UNet, frozen, of whose attention low-rank changes are trained (arXiv 2106.09685).

    PYTHONPATH=docs/examples flowpairs train CONFIG model.kind=lora_unet:LoRAUNet model.pretrained=DIR model.rank=8

docs/examples/lora_unet.py: DIR holds a UNet2DModel in diffusers' layout, such as `flowpairs export` writes.
"""

from diffusers import UNet2DModel
from torch import nn


class LoRA(nn.Module):
    """A linear layer and a change of low rank."""

    def __init__(self, layer, rank):
        super().__init__()
        self.layer, self.down = layer, nn.Linear(layer.in_features, rank, bias=False)
        self.up = nn.Linear(rank, layer.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.layer(x) + self.up(self.down(x))


class LoRAUNet(nn.Module):
    """The network that is trained."""

    def __init__(self, shape, num_classes, pretrained, rank=8):
        super().__init__()
        self.unet = UNet2DModel.from_pretrained(pretrained).requires_grad_(requires_grad=False)
        for module in [m for m in self.unet.modules() if hasattr(m, "to_q")]:
            for name in ("to_q", "to_k", "to_v"):
                setattr(module, name, LoRA(getattr(module, name), rank))

    def forward(self, t, x, label=None):
        return self.unet(x, 1000 * t, class_labels=label).sample
