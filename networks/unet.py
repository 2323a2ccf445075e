"""The U-Net of EDM: DDPM++ for CIFAR-10, ADM for ImageNet-64, smaller ones for everything else."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.blocks import ResidualBlock, SelfAttention, group_norm, zeroed
from networks.embeddings import LevelEmbedding, load_unidirectional


class UNet(nn.Module):
    """Residual U-Net over noise levels (Song et al. 2021, arXiv 2011.13456; Dhariwal & Nichol 2021, arXiv 2105.05233).

    `UNet((3, 32, 32), channels=128, channel_mult=(2, 2, 2), num_blocks=4, attention_resolutions=(16,),
    adaptive_scale=False, skip_scale=0.5**0.5)` has the shape of EDM's DDPM++ (56.5 M parameters against its 55.7 M: EDM
    leaves out the attention of most blocks on the way up);
    `UNet((3, 64, 64), 1000, channels=192, channel_mult=(1, 2, 3, 4), num_blocks=3, attention_resolutions=(32, 16, 8),
    channels_per_head=64)` that of ADM (295.9 M).

    Args:
        image_shape: (C, H, W), H and W divisible by 2^(levels - 1).
        num_classes: 0 for an unconditional network.
        channels: of the first level.
        channel_mult: factor of the channels at each level; the resolution halves between levels.
        num_blocks: residual blocks per level on the way down, one more on the way up.
        attention_resolutions: heights at which blocks are followed by self-attention.
        channels_per_head: of the attention; None for one head.
        dropout: probability in the residual blocks.
        dropout_max_resolution: dropout only at this height and below; None for everywhere.
        adaptive_scale, skip_scale: as in `ResidualBlock`.
        qk_norm: as in `SelfAttention`.
        bidirectional: take a target level as well.
        embedding_mult: size of the level embedding over `channels`.
        embedding_scale, embedding_max_period: of the positional embedding of c_noise.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        *,
        channels: int = 128,
        channel_mult: Sequence[int] = (2, 2, 2),
        num_blocks: int = 4,
        attention_resolutions: Sequence[int] = (16,),
        channels_per_head: int | None = None,
        dropout: float = 0.0,
        dropout_max_resolution: int | None = None,
        adaptive_scale: bool = True,
        skip_scale: float = 1.0,
        qk_norm: bool = False,
        bidirectional: bool = False,
        embedding_mult: int = 4,
        embedding_scale: float = 1.0,
        embedding_max_period: float = 10_000.0,
    ):
        super().__init__()
        image_channels, height, width = image_shape
        factor = 2 ** (len(channel_mult) - 1)
        if height % factor or width % factor:
            raise ValueError(
                f"image_shape={tuple(image_shape)}: {len(channel_mult)} levels need sides divisible by {factor}"
            )
        embedded = channels * embedding_mult
        self.embedding = LevelEmbedding(
            channels, embedded, num_classes, bidirectional, embedding_scale, embedding_max_period
        )

        def block(level: int, c_in: int, resample: float = 1) -> ResidualBlock:
            here = dropout_max_resolution is None or height >> level <= dropout_max_resolution
            rate = dropout if here else 0.0
            return ResidualBlock(c_in, wide[level], embedded, rate, adaptive_scale, resample, skip_scale)

        def attention(level: int) -> SelfAttention:
            return SelfAttention(wide[level], channels_per_head, qk_norm, skip_scale)

        wide = [channels * mult for mult in channel_mult]
        attends = [height >> level in attention_resolutions for level in range(len(wide))]
        self.conv_in = nn.Conv2d(image_channels, channels, 3, padding=1)
        skips, c = [channels], channels
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level in range(len(wide)):
            if level:
                self.down.append(nn.ModuleList([ResidualBlock(c, c, embedded, 0.0, adaptive_scale, 0.5, skip_scale)]))
                skips.append(c)
            for _ in range(num_blocks):
                self.down.append(nn.ModuleList([block(level, c), *([attention(level)] if attends[level] else [])]))
                c = wide[level]
                skips.append(c)
        bottom = len(wide) - 1
        self.middle = nn.ModuleList([block(bottom, c), attention(bottom), block(bottom, c)])
        for level in reversed(range(len(wide))):
            if level < bottom:
                self.up.append(nn.ModuleList([ResidualBlock(c, c, embedded, 0.0, adaptive_scale, 2, skip_scale)]))
            for _ in range(num_blocks + 1):
                layers = [block(level, c + skips.pop()), *([attention(level)] if attends[level] else [])]
                self.up.append(nn.ModuleList(layers))
                c = wide[level]
        self.norm_out = group_norm(c)
        self.conv_out = zeroed(nn.Conv2d(c, image_channels, 3, padding=1))

    def forward(
        self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, c_target: Tensor | None = None
    ) -> Tensor:
        """x (B, C, H, W) with unit variance, c_noise, label and c_target (B,) -> (B, C, H, W)."""
        embedding = F.silu(self.embedding(c_noise, label, c_target))
        x = self.conv_in(x)
        skips = [x]
        for layers in self.down:
            x = self._apply(layers, x, embedding)
            skips.append(x)
        x = self._apply(self.middle, x, embedding)
        for layers in self.up:
            if layers[0].resample == 1:
                x = torch.cat([x, skips.pop()], dim=1)
            x = self._apply(layers, x, embedding)
        return self.conv_out(F.silu(self.norm_out(x)))

    @staticmethod
    def _apply(layers: nn.ModuleList, x: Tensor, embedding: Tensor) -> Tensor:
        for layer in layers:
            x = layer(x, embedding) if isinstance(layer, ResidualBlock) else layer(x)
        return x

    def load_unidirectional(self, state: dict[str, Tensor]) -> None:
        """Start from a network with one noise level, see `networks.embeddings.load_unidirectional`."""
        load_unidirectional(self, state)
