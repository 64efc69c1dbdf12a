"""UNet2DModel of diffusers with our call convention."""

from diffusers import UNet2DModel
from jaxtyping import Float, Int64
from torch import Tensor, nn

from flowpairs.training.models.conditioning import Conditioning

# UNet2DModel embeds the integer time steps of a diffusion, 0 to 1000; its sinusoids hardly change over [0, 1].
TIME_SCALE = 1000.0
SPAN_TIME_SCALE = 3.0  # if the time derivative is trained on: at 1000 the sinusoids would make it too noisy


class UNet(nn.Module):
    """A velocity field on images, with attention at the coarsest resolution only.

    Args:
        shape: the shape [C, H, W] of an image; H and W divisible by 2 ** (len(channels) - 1).
        channels: the number of channels per resolution, finest first; multiples of 8.
        layers: the number of ResNet blocks per resolution.
        num_classes: the number of labels; 0 for an unconditional model.
        spans: whether the model takes `until` and returns average velocities.
    """

    def __init__(
        self, shape: tuple[int, ...], channels: tuple[int, ...], layers: int, num_classes: int, spans: bool = False
    ) -> None:
        super().__init__()
        # UNet2DModel takes time and class only. With `spans`, a vector of our own replaces the class embedding.
        self.conditioning = Conditioning(4 * channels[0], num_classes, spans) if spans else None
        self.time_scale = SPAN_TIME_SCALE if spans else TIME_SCALE
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
            class_embed_type="identity" if spans else None,
            num_class_embeds=num_classes or None,
        )
        if spans:  # forward-mode differentiation needs a view of a norm's input, which attention passes transposed
            for module in self.modules():
                if isinstance(module, nn.GroupNorm):
                    module.register_forward_pre_hook(lambda _, inputs: tuple(x.contiguous() for x in inputs))

    def forward(
        self,
        t: Float[Tensor, " b"],
        x: Float[Tensor, "b c h w"],
        label: Int64[Tensor, " b"] | None = None,
        until: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Compute the velocity at (t, x)."""
        classes = label if self.conditioning is None else self.conditioning(t, label, until)
        return self.unet(x, self.time_scale * t, class_labels=classes, return_dict=False)[0]  # type: ignore[operator]
