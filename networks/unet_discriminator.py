"""A discriminator that is a whole U-Net."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from networks.loading import SECOND_LEVEL, load_parts
from networks.unet import UNet


class UNetDiscriminator(UNet):
    """A logit for every pixel, and a decoded image beside them, from the U-Net of a generator.

    Dense logits as in U-Net GAN (Schönfeld et al. 2020, arXiv 2002.12655); the decoded image is what SIDDM (Xu et al.
    2023, arXiv 2306.12511) regresses with. The logits are 0 at the start.

    Args:
        image_shape: (C, H, W) of what is judged.
        num_classes: 0 for an unconditional network.
        decoded_channels: of the decoded image; 0 for none.
        source_level: be told a second level as well, the one that a sample was made from.
        options: of `UNet`, but for the second level, the latent and `out_channels`, which are given here.

    Raises:
        ValueError: an argument outside these ranges.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        *,
        decoded_channels: int = 0,
        source_level: bool = False,
        **options: Any,
    ):
        if decoded_channels < 0:
            raise ValueError(f"decoded_channels={decoded_channels}: it must be >= 0")
        super().__init__(
            image_shape,
            num_classes,
            bidirectional=source_level,
            latent_size=0,
            mapping_layers=0,
            out_channels=1 + decoded_channels,
            **options,
        )
        self.decoded_channels, self.source_level = decoded_channels, source_level

    def forward(  # type: ignore[override]  # no latent
        self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, c_source: Tensor | None = None
    ) -> Tensor:
        """x (B, C, H, W) with unit variance, c_noise, label and c_source (B,) -> logits (B, H, W)."""
        return self.decode(x, c_noise, label, c_source)[0]

    def decode(
        self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, c_source: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As forward -> logits (B, H, W) and the decoded image (B, decoded_channels, H, W)."""
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative, which R1 needs
            out = super().forward(x, c_noise, label, c_source)
        return out[:, 0], out[:, 1:]

    def load_generator(self, state: Mapping[str, Tensor]) -> None:
        """Start from a generator's or a diffusion model's network of the same shape, all but the last layer.

        Args:
            state: state dict of a `UNet` with one noise level; the mapping network of a latent is left out.

        Raises:
            ValueError: keys or shapes differ.
        """
        left_out = ("conv_out.", "embedding.mapping.")
        load_parts(self, state, "generator's", own=("conv_out.", *SECOND_LEVEL), other=left_out)
