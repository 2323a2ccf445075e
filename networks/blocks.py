"""The parts of a U-Net: residual block and self-attention."""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def group_norm(channels: int, groups: int | None = None, eps: float = 1e-5) -> nn.GroupNorm:
    """A norm over groups of channels, by default up to 32 groups of at least four channels, as EDM.

    Raises:
        ValueError: `groups` does not divide `channels`.
    """
    if groups is not None:
        if groups < 1 or channels % groups:
            raise ValueError(f"norm_groups={groups}: it must divide the {channels} channels of every norm")
        return nn.GroupNorm(groups, channels, eps=eps)
    groups = max(1, min(32, channels // 4))
    while channels % groups:
        groups -= 1
    return nn.GroupNorm(groups, channels, eps=eps)


def zeroed(layer: Layer) -> Layer:
    """The layer with all its parameters zero, so that a residual branch starts as nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def convolution(in_channels: int, out_channels: int, kernel: int, gain: float = 1.0) -> nn.Conv2d:
    """A padded convolution with Xavier's uniform weights and no bias at the start, as DDPM++."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    nn.init.xavier_uniform_(conv.weight, gain)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


class ResidualBlock(nn.Module):
    """norm, SiLU, [resample], conv, + embedding, norm, SiLU, dropout, conv, added to a skip path.

    The block of DDPM++/EDM and of ADM ("BigGAN" resampling inside the block): box filter down, nearest pixel up.

    Args:
        in_channels, out_channels: of the images.
        embedding_channels: of the level embedding.
        dropout: probability.
        adaptive_scale: the embedding gives scale and shift of the second norm (ADM); otherwise it is added before
            it (DDPM++). Adaptive scales made consistency training diverge (arXiv 2410.11081, sec. 4.1); BCM adds.
        resample: 1, 2 (up) or 0.5 (down).
        skip_scale: factor of the sum; sqrt(1/2) in DDPM++, 1 in ADM.
        skip_projection: a 1x1 convolution on the skip path even where the channels stay the same.
        norm: channels -> the norm over them.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_channels: int,
        *,
        dropout: float = 0.0,
        adaptive_scale: bool = True,
        resample: float = 1,
        skip_scale: float = 1.0,
        skip_projection: bool = False,
        norm: Callable[[int], nn.GroupNorm] = group_norm,
    ):
        super().__init__()
        self.adaptive_scale, self.resample, self.skip_scale = adaptive_scale, resample, skip_scale
        self.norm_in = norm(in_channels)
        self.conv_in = convolution(in_channels, out_channels, 3)
        self.embed = nn.Linear(embedding_channels, out_channels * (2 if adaptive_scale else 1))
        self.norm_out = norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        project = skip_projection or in_channels != out_channels
        self.skip = convolution(in_channels, out_channels, 1) if project else nn.Identity()

    def _resample(self, x: Tensor) -> Tensor:
        if self.resample == 1:
            return x
        return F.avg_pool2d(x, 2) if self.resample < 1 else F.interpolate(x, scale_factor=2.0, mode="nearest")

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, in, H, W), embedding (B, E) after its SiLU -> (B, out, H', W')."""
        h = self.conv_in(self._resample(F.silu(self.norm_in(x))))
        modulation = self.embed(embedding)[:, :, None, None]
        if self.adaptive_scale:
            scale, shift = modulation.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm_out(h), scale + 1)
        else:
            h = self.norm_out(h + modulation)
        h = self.conv_out(self.dropout(F.silu(h)))
        out = self.skip(self._resample(x)) + h
        return out if self.skip_scale == 1 else out * self.skip_scale


class SelfAttention(nn.Module):
    """Self-attention over the pixels, added to the input.

    Args:
        channels: of the images.
        channels_per_head: a divisor of `channels`; None for one head.
        qk_norm: divide queries, keys and values by their root mean square over a head's channels, as EDM2 and BCM do
            ("cosine attention", Karras et al. 2024, arXiv 2312.02696); BCM found its reproduction of iCT to need it.
        skip_scale, norm: as in `ResidualBlock`.

    Raises:
        ValueError: channels_per_head does not divide channels.
    """

    def __init__(
        self,
        channels: int,
        channels_per_head: int | None = None,
        qk_norm: bool = False,
        skip_scale: float = 1.0,
        norm: Callable[[int], nn.GroupNorm] = group_norm,
    ):
        super().__init__()
        per_head = channels if channels_per_head is None else channels_per_head
        if per_head < 1 or channels % per_head:
            raise ValueError(f"channels_per_head={per_head}: it must divide the {channels} channels of this level")
        self.heads, self.qk_norm, self.skip_scale = channels // per_head, qk_norm, skip_scale
        self.norm = norm(channels)
        # DDPM++'s gain: attention that starts nearly uniform
        self.qkv = convolution(channels, 3 * channels, 1, gain=math.sqrt(0.2))
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> the same shape."""
        b, c, h, w = x.shape
        # All queries, then all keys, then all values. With pixels before channels the fused attention kernels apply;
        # in the channels-last memory format that is already the order in memory.
        qkv = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).contiguous()
        qkv = qkv.view(b, h * w, 3, self.heads, c // self.heads)
        if self.qk_norm:
            at_least_float32 = torch.promote_types(qkv.dtype, torch.float32)
            norm = torch.linalg.vector_norm(qkv, dim=-1, keepdim=True, dtype=at_least_float32)
            qkv = qkv / (norm / math.sqrt(qkv.shape[-1]) + 1e-4).to(qkv.dtype)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v)
        out = x + self.out(attended.permute(0, 1, 3, 2).reshape(b, c, h, w))
        return out if self.skip_scale == 1 else out * self.skip_scale


class Attended(nn.Module):
    """A residual block and then self-attention."""

    def __init__(self, residual: ResidualBlock, attention: SelfAttention):
        super().__init__()
        self.residual, self.attention = residual, attention

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """As `ResidualBlock`."""
        return self.attention(self.residual(x, embedding))
