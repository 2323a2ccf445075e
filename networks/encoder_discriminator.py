"""A discriminator that is the first half of a U-Net."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from networks.blocks import group_norm, zeroed
from networks.loading import SECOND_LEVEL, load_parts
from networks.minibatch import MinibatchDeviation
from networks.unet import UNet


class UNetEncoderDiscriminator(UNet):
    """A logit for every image from the way down and the middle of a generator's U-Net, and a new head.

    Head: norm, SiLU, [minibatch deviation], mean over places, linear. DMD2 (Yin et al. 2024, arXiv 2405.14867) judges
    by the middle of a diffusion model's U-Net too. The logits are 0 at the start.

    Args:
        image_shape: (C, H, W) of what is judged.
        num_classes: 0 for an unconditional network.
        minibatch_group: images in a group of `MinibatchDeviation`; 0 for no such channel.
        source_level: be told a second level as well, the one that a sample was made from.
        options: of `UNet`, but for the second level, the latent and `out_channels`, which are given here; what
            concerns the way up has no effect.

    Raises:
        ValueError: an argument outside these ranges.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        *,
        minibatch_group: int = 0,
        source_level: bool = False,
        **options: Any,
    ):
        super().__init__(
            image_shape,
            num_classes,
            bidirectional=source_level,
            latent_size=0,
            mapping_layers=0,
            out_channels=None,
            **options,
        )
        self.source_level = source_level
        del self.up, self.takes_skip, self.norm_out, self.conv_out
        last: Any = self.middle[-1]
        channels = last.conv_out.out_channels
        self.head_norm = group_norm(channels)
        self.minibatch = MinibatchDeviation(minibatch_group) if minibatch_group else None
        self.head = zeroed(nn.Linear(channels + bool(minibatch_group), 1))

    def forward(  # type: ignore[override]  # no latent
        self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, c_source: Tensor | None = None
    ) -> Tensor:
        """x (B, C, H, W) with unit variance, c_noise, label and c_source (B,) -> logits (B,)."""
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative, which R1 needs
            h, _ = self.encode(x, F.silu(self.embedding(c_noise, label, c_source)))
        h = F.silu(self.head_norm(h))
        h = h if self.minibatch is None else self.minibatch(h)
        return self.head(h.mean((2, 3)))[:, 0]

    def load_generator(self, state: Mapping[str, Tensor]) -> None:
        """Start from a generator's or a diffusion model's network of the same shape, all but the head.

        Args:
            state: state dict of a `UNet` with one noise level; its way up and the mapping network of a latent are left
                out.

        Raises:
            ValueError: keys or shapes differ.
        """
        left_out = ("up.", "norm_out.", "conv_out.", "embedding.mapping.")
        load_parts(self, state, "generator's", own=("head_norm.", "head.", *SECOND_LEVEL), other=left_out)
