"""The U-Net of EDM: DDPM++ for CIFAR-10, ADM for ImageNet-64, smaller ones for everything else."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.blocks import Attended, ResidualBlock, SelfAttention, convolution, group_norm, zeroed
from networks.embeddings import LevelEmbedding, load_unidirectional


class UNet(nn.Module):
    """Residual U-Net over noise levels (Song et al. 2021, arXiv 2011.13456; Dhariwal & Nichol 2021, arXiv 2105.05233).

    `UNet((3, 32, 32), channels=128, channel_mult=(2, 2, 2), num_blocks=4, attention_resolutions=(16,),
    adaptive_scale=False, skip_scale=0.5**0.5, skip_projection=True, attend_all_up=False)` has the shape of EDM's DDPM++
    (55.7 M parameters); `UNet((3, 64, 64), 1000, channels=192, channel_mult=(1, 2, 3, 4), num_blocks=3,
    attention_resolutions=(32, 16, 8), channels_per_head=64)` that of its ADM (295.9 M), and with
    `attention_resolutions=(16, 8), adaptive_scale=False, qk_norm=True, dropout=0.2, dropout_max_resolution=16,
    embedding_scale=1000.0` that of BCM's on ImageNet-64. The output is zero at the start.

    Args:
        image_shape: (C, H, W), H and W divisible by patch_size * 2^(levels - 1).
        num_classes: 0 for an unconditional network.
        channels: of the first level.
        channel_mult: factor of the channels at each level; the resolution halves between levels.
        num_blocks: residual blocks per level on the way down, one more on the way up.
        patch_size: fold patches of this many pixels each way into channels and work on the image of patches, which
            costs patch_size^2 times less; "resolution" and "height" below are those of the folded image.
        attention_resolutions: heights at which blocks are followed by self-attention; one that does not occur is
            ignored.
        channels_per_head: of the attention; None for one head.
        attend_middle: self-attention between the two blocks at the lowest resolution.
        attend_all_up: on the way up, attention after every block of its level (ADM) or after the last one (DDPM++).
        dropout: probability in the residual blocks, in [0, 1).
        dropout_max_resolution: dropout only in blocks that receive images of this height or less; None for everywhere.
        adaptive_scale, skip_scale: as in `ResidualBlock`.
        skip_projection: a 1x1 convolution on the skip path of the blocks that resample (DDPM++).
        qk_norm: as in `SelfAttention`.
        bidirectional: take a target level as well.
        embedding_mult: size of the level embedding over `channels`.
        embedding_scale, embedding_max_period, fourier_scale: of the embedding of c_noise, as in `LevelEmbedding`.
        latent_size: numbers in the latent of a generator; 0 for none.
        mapping_layers: of the latent's mapping network, after its first.
        out_channels: of the output; None for those of the input.
        norm_groups, norm_eps: of every norm; None for up to 32 groups of at least four channels.
        embedding_endpoint, label_first: of the embedding, as in `LevelEmbedding`.

    Raises:
        ValueError: an argument outside these ranges.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        *,
        channels: int = 128,
        channel_mult: Sequence[int] = (2, 2, 2),
        num_blocks: int = 4,
        patch_size: int = 1,
        attention_resolutions: Sequence[int] = (16,),
        channels_per_head: int | None = None,
        attend_middle: bool = True,
        attend_all_up: bool = True,
        dropout: float = 0.0,
        dropout_max_resolution: int | None = None,
        adaptive_scale: bool = True,
        skip_scale: float = 1.0,
        skip_projection: bool = False,
        qk_norm: bool = False,
        bidirectional: bool = False,
        embedding_mult: int = 4,
        embedding_scale: float = 1.0,
        embedding_max_period: float = 10_000.0,
        fourier_scale: float | None = None,
        latent_size: int = 0,
        mapping_layers: int = 4,
        out_channels: int | None = None,
        norm_groups: int | None = None,
        norm_eps: float = 1e-5,
        embedding_endpoint: bool = False,
        label_first: bool = False,
    ):
        super().__init__()
        image_channels, height, width = image_shape
        out_channels = image_channels if out_channels is None else out_channels
        for name, size in (
            ("channels", channels),
            ("num_blocks", num_blocks),
            ("patch_size", patch_size),
            ("embedding_mult", embedding_mult),
            ("out_channels", out_channels),
        ):
            if size < 1:
                raise ValueError(f"{name}={size}: it must be at least 1")
        if not channel_mult or min(channel_mult) < 1:
            raise ValueError(f"channel_mult={tuple(channel_mult)}: one factor of at least 1 per level")
        factor = patch_size * 2 ** (len(channel_mult) - 1)
        if height % factor or width % factor:
            raise ValueError(
                f"image_shape={tuple(image_shape)}: {len(channel_mult)} levels of patches of {patch_size} need sides "
                f"divisible by {factor}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}: it must be in [0, 1)")
        self.latent_size, embedded = latent_size, channels * embedding_mult
        self.embedding = LevelEmbedding(
            channels,
            embedded,
            num_classes,
            bidirectional,
            embedding_scale,
            embedding_max_period,
            fourier_scale,
            latent_size,
            mapping_layers,
            embedding_endpoint,
            label_first,
        )
        norm = partial(group_norm, groups=norm_groups, eps=norm_eps)

        def block(resolution: int, c_in: int, c_out: int, resample: float = 1) -> ResidualBlock:
            here = dropout_max_resolution is None or resolution <= dropout_max_resolution
            return ResidualBlock(
                c_in,
                c_out,
                embedded,
                dropout=dropout if here else 0.0,
                adaptive_scale=adaptive_scale,
                resample=resample,
                skip_scale=skip_scale,
                skip_projection=skip_projection and resample != 1,
                norm=norm,
            )

        def attended(residual: ResidualBlock) -> Attended:
            attention = SelfAttention(residual.conv_out.out_channels, channels_per_head, qk_norm, skip_scale, norm)
            return Attended(residual, attention)

        self.patch_size = patch_size
        levels = [((height // patch_size) >> i, channels * mult) for i, mult in enumerate(channel_mult)]
        self.conv_in = convolution(image_channels * patch_size**2, channels, 3)
        skips, c = [channels], channels
        self.down, self.up, self.takes_skip = nn.ModuleList(), nn.ModuleList(), list[bool]()
        for i, (resolution, wide) in enumerate(levels):
            if i:
                self.down.append(block(2 * resolution, c, c, resample=0.5))
                skips.append(c)
            for _ in range(num_blocks):
                residual = block(resolution, c, wide)
                self.down.append(attended(residual) if resolution in attention_resolutions else residual)
                c = wide
                skips.append(c)
        residual = block(resolution, c, c)
        self.middle = nn.ModuleList([attended(residual) if attend_middle else residual, block(resolution, c, c)])
        for i, (resolution, wide) in reversed(list(enumerate(levels))):
            if i < len(levels) - 1:
                self.up.append(block(resolution // 2, c, c, resample=2))
                self.takes_skip.append(False)
            for j in range(num_blocks + 1):
                residual = block(resolution, c + skips.pop(), wide)
                attend = resolution in attention_resolutions and (attend_all_up or j == num_blocks)
                self.up.append(attended(residual) if attend else residual)
                self.takes_skip.append(True)
                c = wide
        self.norm_out = norm(c)
        self.conv_out = zeroed(nn.Conv2d(c, out_channels * patch_size**2, 3, padding=1))

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
        x, skips = self.encode(x, embedding)
        for block, takes_skip in zip(self.up, self.takes_skip, strict=True):
            x = block(torch.cat([x, skips.pop()], dim=1) if takes_skip else x, embedding)
        x = self.conv_out(F.silu(self.norm_out(x)))
        return x if self.patch_size == 1 else F.pixel_shuffle(x, self.patch_size)

    def encode(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The way down and the middle: what the way up starts from, at the lowest resolution, and its skip inputs.

        Args:
            x: images (B, C, H, W).
            embedding: level embeddings (B, E) after their SiLU.
        """
        x = self.conv_in(x if self.patch_size == 1 else F.pixel_unshuffle(x, self.patch_size))
        skips = [x]
        for block in self.down:
            x = block(x, embedding)
            skips.append(x)
        for block in self.middle:
            x = block(x, embedding)
        return x, skips

    def load_unidirectional(self, state: Mapping[str, Tensor]) -> None:
        """Start from a network with one noise level, see `networks.embeddings.load_unidirectional`."""
        load_unidirectional(self, state)
