"""A residual multilayer perceptron for 2-D data and images of a few dozen pixels."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.blocks import zeroed
from networks.embeddings import LevelEmbedding, load_unidirectional


class MLP(nn.Module):
    """Residual blocks of two linear layers over the flattened image, modulated by the level embedding.

    On a CPU nearly all its time is in matrix products; bfloat16 about halves it where the CPU has units for it.

    Args:
        image_shape: (C, H, W); (2, 1, 1) for points of the plane.
        num_classes: 0 for an unconditional network.
        width: of the residual stream, >= 1.
        depth: residual blocks, >= 1.
        dropout: probability before each block's last layer, in [0, 1).
        bidirectional: take a target level as well.
        embedding_channels: size of the level embedding.
        embedding_scale, embedding_max_period: of the positional embedding of c_noise, which spans about [-1.6, 1.1].
        latent_size: numbers in the latent of a generator; 0 for none.
        mapping_layers: of the latent's mapping network, after its first.
        out_channels: of the output; None for those of the input.
        input_frequencies: k > 0: beside each coordinate its sines and cosines at pi, 2 pi, ... 2^(k-1) pi, so that
            points which lie close to each other are told apart (Tancik et al. 2020, arXiv 2006.10739, sec. 6.1).

    Raises:
        ValueError: an argument outside these ranges.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        *,
        width: int = 256,
        depth: int = 4,
        dropout: float = 0.0,
        bidirectional: bool = False,
        embedding_channels: int = 128,
        embedding_scale: float = 16.0,
        embedding_max_period: float = 64.0,
        latent_size: int = 0,
        mapping_layers: int = 4,
        out_channels: int | None = None,
        input_frequencies: int = 0,
    ):
        super().__init__()
        channels, *sides = image_shape
        self.out_shape = (channels if out_channels is None else out_channels, *sides)
        for name, count in (("width", width), ("depth", depth), ("out_channels", self.out_shape[0])):
            if count < 1:
                raise ValueError(f"{name}={count}: it must be at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}: it must be in [0, 1)")
        if input_frequencies < 0:
            raise ValueError(f"input_frequencies={input_frequencies}: it must be >= 0")
        self.latent_size, self.input_frequencies = latent_size, input_frequencies
        self.embedding = LevelEmbedding(
            embedding_channels,
            2 * embedding_channels,
            num_classes,
            bidirectional,
            embedding_scale,
            embedding_max_period,
            latent_size=latent_size,
            mapping_layers=mapping_layers,
        )
        self.modulate = nn.Linear(2 * embedding_channels, 2 * depth * width)
        self.layer_in = nn.Linear(math.prod(image_shape) * (1 + 2 * input_frequencies), width)
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.second = nn.ModuleList(zeroed(nn.Linear(width, width)) for _ in range(depth))
        self.dropout = nn.Dropout(dropout)
        self.norm_out = nn.LayerNorm(width)
        self.layer_out = zeroed(nn.Linear(width, math.prod(self.out_shape)))

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        label: Tensor | None = None,
        c_target: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Tensor:
        """x (B, C, H, W) with unit variance, c_noise, label and c_target (B,), latent (B, Z) -> (B, out, H, W)."""
        embedding = F.silu(self.embedding(c_noise, label, c_target, latent))
        return self.layer_out(self.encode(x, embedding)).unflatten(1, self.out_shape)

    def encode(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Images (B, C, H, W) and level embeddings (B, E) after their SiLU -> what the last layer sees (B, width)."""
        modulation = self.modulate(embedding).chunk(2 * len(self.first), dim=1)
        h = x.flatten(1)
        if self.input_frequencies:
            angles = torch.cat([2**k * math.pi * h for k in range(self.input_frequencies)], dim=1)
            h = torch.cat([h, angles.sin(), angles.cos()], dim=1)
        h = self.layer_in(h)
        for first, second, scale, shift in zip(self.first, self.second, modulation[::2], modulation[1::2], strict=True):
            normed = torch.addcmul(shift, F.layer_norm(h, h.shape[1:]), scale + 1)
            h = h + second(self.dropout(F.silu(first(normed))))
        return self.norm_out(h)

    def load_unidirectional(self, state: Mapping[str, Tensor]) -> None:
        """Start from a network with one noise level, see `networks.embeddings.load_unidirectional`."""
        load_unidirectional(self, state)
