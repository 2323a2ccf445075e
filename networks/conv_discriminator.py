"""The convolutional discriminator of DDGAN."""

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from networks.blocks import convolution, zeroed
from networks.embeddings import LevelEmbedding
from networks.minibatch import MinibatchDeviation

SLOPE = 0.2
"""Of the leaky ReLU below zero."""


class DiscriminatorBlock(nn.Module):
    """LeakyReLU, conv, + embedding, LeakyReLU, [halve], conv, added to a 1x1 conv of the halved input, over sqrt 2.

    Args:
        in_channels, out_channels: of the images.
        embedding_channels: of the level embedding.
        halve: average pooling of 2x2 pixels; DDGAN has the filter [1, 3, 3, 1].
    """

    def __init__(self, in_channels: int, out_channels: int, embedding_channels: int, *, halve: bool):
        super().__init__()
        self.halve = halve
        self.conv_in = convolution(in_channels, out_channels, 3)
        self.embed = nn.Linear(embedding_channels, out_channels)
        self.conv_out = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        nn.init.xavier_uniform_(self.skip.weight)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, in, H, W), embedding (B, E) after its nonlinearity -> (B, out, H', W')."""
        h = self.conv_in(F.leaky_relu(x, SLOPE)) + self.embed(embedding)[:, :, None, None]
        h = F.leaky_relu(h, SLOPE)
        if self.halve:
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        return (self.conv_out(h) + self.skip(x)) * math.sqrt(0.5)


class ConvDiscriminator(nn.Module):
    """A logit for every image, by convolutions without norms: DDGAN's small one (Xiao et al. 2022, arXiv 2112.07804).

    1x1 convolution, one block at full resolution, blocks that halve it, minibatch deviation, 3x3 convolution,
    LeakyReLU, sum over places, linear. The defaults are DDGAN's for CIFAR-10. The logits are 0 at the start.

    Args:
        image_shape: (C, H, W) of what is judged, H and W divisible by 2^(levels - 1).
        num_classes: 0 for an unconditional network.
        channels: channels of level i are channels * channel_mult[i].
        channel_mult: one factor per level; the resolution halves between levels.
        minibatch_group: images in a group of `MinibatchDeviation`; 0 for no such channel.
        source_level: be told a second level as well, the one that a sample was made from.
        embedding_channels: size of the level embedding.
        embedding_scale, embedding_max_period: of the positional embedding of c_noise, which spans about [-1.6, 1.1].

    Raises:
        ValueError: an argument outside these ranges.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        *,
        channels: int = 64,
        channel_mult: Sequence[int] = (2, 4, 8, 8),
        minibatch_group: int = 4,
        source_level: bool = False,
        embedding_channels: int = 128,
        embedding_scale: float = 16.0,
        embedding_max_period: float = 64.0,
    ):
        super().__init__()
        image_channels, height, width = image_shape
        if channels < 1:
            raise ValueError(f"channels={channels}: it must be at least 1")
        if not channel_mult or min(channel_mult) < 1:
            raise ValueError(f"channel_mult={tuple(channel_mult)}: one factor of at least 1 per level")
        factor = 2 ** (len(channel_mult) - 1)
        if height % factor or width % factor:
            raise ValueError(
                f"image_shape={tuple(image_shape)}: {len(channel_mult)} levels, as in "
                f"channel_mult={tuple(channel_mult)}, need sides divisible by {factor}"
            )
        self.source_level = source_level
        self.embedding = LevelEmbedding(
            embedding_channels, embedding_channels, num_classes, source_level, embedding_scale, embedding_max_period
        )
        wide = [channels * mult for mult in channel_mult]
        self.conv_in = convolution(image_channels, wide[0], 1)
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(wide[max(i - 1, 0)], wide[i], embedding_channels, halve=i > 0) for i in range(len(wide))
        )
        self.minibatch = MinibatchDeviation(minibatch_group) if minibatch_group else None
        self.conv_out = convolution(wide[-1] + bool(minibatch_group), wide[-1], 3)
        self.layer_out = zeroed(nn.Linear(wide[-1], 1))

    def forward(
        self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, c_source: Tensor | None = None
    ) -> Tensor:
        """x (B, C, H, W) with unit variance, c_noise, label and c_source (B,) -> logits (B,)."""
        embedding = F.leaky_relu(self.embedding(c_noise, label, c_source), SLOPE)
        h = self.conv_in(x)
        for block in self.blocks:
            h = block(h, embedding)
        h = h if self.minibatch is None else self.minibatch(h)
        return self.layer_out(F.leaky_relu(self.conv_out(h), SLOPE).sum((2, 3)))[:, 0]
