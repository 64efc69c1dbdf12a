"""A compact diffusion transformer (arXiv 2212.09748) with adaLN-Zero conditioning.

diffusers' DiTTransformer2DModel is not used: it requires labels, drops 10 % of them at random with the global generator
(a resumed run would differ), takes square images only, and its initial output is not zero.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from flowpairs.training.models.conditioning import Conditioning


def modulate(
    h: Float[Tensor, "b n w"], shift: Float[Tensor, "b w"], scale: Float[Tensor, "b w"]
) -> Float[Tensor, "b n w"]:
    """Shift and scale the tokens of each sample by the sample's conditioning."""
    return h * (1 + scale[:, None]) + shift[:, None]


class DiTBlock(nn.Module):
    """A transformer layer of attention and MLP, each gated by the conditioning; the identity at initialisation."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        self.modulation = zeroed(nn.Linear(width, 6 * width))

    def forward(self, h: Float[Tensor, "b n w"], condition: Float[Tensor, "b w"]) -> Float[Tensor, "b n w"]:
        """Apply the layer to tokens h."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition).chunk(6, dim=1)
        h = h + gate1[:, None] * self.attend(modulate(self.norm1(h), shift1, scale1))
        return h + gate2[:, None] * self.mlp(modulate(self.norm2(h), shift2, scale2))

    def attend(self, h: Float[Tensor, "b n w"]) -> Float[Tensor, "b n w"]:
        """Apply self-attention over the tokens."""
        q, k, v = self.qkv(h).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.project(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class DiT(nn.Module):
    """A velocity field on images cut into patches, with a learned position per patch.

    Args:
        shape: the shape [C, H, W] of an image; H and W divisible by `patch`.
        patch: the side of a patch, in pixels.
        width: the length of a token's vector; divisible by `heads`.
        depth: the number of transformer layers.
        heads: the number of attention heads.
        num_classes: the number of labels; 0 for an unconditional model.
        spans: whether the model takes `until` and returns average velocities.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        patch: int,
        width: int,
        depth: int,
        heads: int,
        num_classes: int,
        spans: bool = False,
    ) -> None:
        super().__init__()
        channels, height, wide = shape
        self.grid = (height // patch, wide // patch)
        self.conditioning = Conditioning(width, num_classes, spans)
        self.enter = nn.Conv2d(channels, width, patch, patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, self.grid[0] * self.grid[1], width))
        self.blocks = nn.ModuleList(DiTBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = zeroed(nn.Linear(width, 2 * width))
        self.leave = zeroed(nn.Linear(width, channels * patch * patch))
        self.pixels = nn.PixelShuffle(patch)

    def forward(
        self,
        t: Float[Tensor, " b"],
        x: Float[Tensor, "b c h w"],
        label: Int64[Tensor, " b"] | None = None,
        until: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Compute the velocity at (t, x)."""
        condition = silu(self.conditioning(t, label, until))
        h = self.enter(x).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            h = block(h, condition)
        shift, scale = self.modulation(condition).chunk(2, dim=1)
        patches = self.leave(modulate(self.norm(h), shift, scale))
        return self.pixels(patches.transpose(1, 2).unflatten(2, self.grid))


def zeroed(layer: nn.Linear) -> nn.Linear:
    """Set a layer's weights and bias to zero and return it, so that adaLN-Zero starts at the identity."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
