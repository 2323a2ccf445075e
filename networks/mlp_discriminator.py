"""A discriminator that is a multilayer perceptron."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from networks.blocks import zeroed
from networks.loading import SECOND_LEVEL, load_parts
from networks.mlp import MLP


class MLPDiscriminator(MLP):
    """A logit for every point or tiny image, and a decoded image beside it, from the `MLP` of a generator.

    The decoded image is what SIDDM (Xu et al. 2023, arXiv 2306.12511) regresses with. The logits are 0 at the start.

    Args:
        image_shape: (C, H, W) of what is judged; (2, 1, 1) for points of the plane.
        num_classes: 0 for an unconditional network.
        decoded_channels: of the decoded image; 0 for none.
        source_level: be told a second level as well, the one that a sample was made from.
        options: of `MLP`, but for the second level, the latent and `out_channels`, which are given here.

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
            out_channels=None,
            **options,
        )
        self.source_level = source_level
        self.decoded_channels, self.decoded_shape = decoded_channels, (decoded_channels, *image_shape[1:])
        self.layer_out = zeroed(nn.Linear(self.layer_out.in_features, 1 + math.prod(self.decoded_shape)))

    def forward(  # type: ignore[override]  # no latent
        self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, c_source: Tensor | None = None
    ) -> Tensor:
        """x (B, C, H, W) with unit variance, c_noise, label and c_source (B,) -> logits (B,)."""
        return self.decode(x, c_noise, label, c_source)[0]

    def decode(
        self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, c_source: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As forward -> logits (B,) and the decoded image (B, decoded_channels, H, W)."""
        out = self.layer_out(self.encode(x, F.silu(self.embedding(c_noise, label, c_source))))
        return out[:, 0], out[:, 1:].unflatten(1, self.decoded_shape)

    def load_generator(self, state: Mapping[str, Tensor]) -> None:
        """Start from a generator's or a diffusion model's network of the same shape, all but the last layer.

        Args:
            state: state dict of an `MLP` with one noise level; the mapping network of a latent is left out.

        Raises:
            ValueError: keys or shapes differ.
        """
        left_out = ("layer_out.", "embedding.mapping.")
        load_parts(self, state, "generator's", own=("layer_out.", *SECOND_LEVEL), other=left_out)
