"""diffusers' UNet2DModel under our call convention."""

from diffusers import UNet2DModel
from jaxtyping import Float, Int64
from torch import Tensor, nn

# UNet2DModel embeds the integer time steps of a diffusion, 0 to 1000; its sinusoids hardly move over [0, 1].
TIME_SCALE = 1000.0


class UNet(nn.Module):
    """Velocity field on images, attention at the coarsest resolution only.

    Args:
        shape: [C, H, W]; H and W divisible by 2 ** (len(channels) - 1).
        channels: at each resolution, finest first; multiples of 8.
        layers: ResNet blocks at each resolution.
        num_classes: 0 for an unconditional model.
    """

    def __init__(self, shape: tuple[int, ...], channels: tuple[int, ...], layers: int, num_classes: int) -> None:
        super().__init__()
        coarser = len(channels) - 1
        self.unet = UNet2DModel(
            sample_size=(shape[1], shape[2]),
            in_channels=shape[0],
            out_channels=shape[0],
            block_out_channels=channels,
            down_block_types=("DownBlock2D",) * coarser + ("AttnDownBlock2D",),
            up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * coarser,
            layers_per_block=layers,
            norm_num_groups=8,
            num_class_embeds=num_classes or None,
        )

    def forward(
        self, t: Float[Tensor, " b"], x: Float[Tensor, "b c h w"], label: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Velocity at (t, x)."""
        return self.unet(x, TIME_SCALE * t, class_labels=label, return_dict=False)[0]  # type: ignore[operator]
