"""The networks that are timed, with the same shape in our code and in the official one."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from networks import UNet

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Shape:
    """A U-Net without dropout, with ADM's blocks (adaptive scale, attention at every block of its levels) or DDPM++'s.

    openai's and BCM's code have ADM's blocks only; so for these "cifar" is DDPM++'s widths, depths and attention with
    ADM's blocks: 61.5 M parameters where EDM's own DDPM++, which EDM's and ECT's code are timed with, has 55.7 M.

    Args:
        size: side of the RGB images in pixels.
        channels, channel_mult, num_blocks, attention_resolutions, channels_per_head: as in `UNet`; every factor is a
            multiple of the first, which is 1, 2 or 4.
        batch_size: images per training step.
        num_steps: N, intervals of the time grid.
        target_rate: EMA rate of CT's target network.
    """

    size: int
    channels: int
    channel_mult: tuple[int, ...]
    num_blocks: int
    attention_resolutions: tuple[int, ...]
    channels_per_head: int
    batch_size: int
    num_steps: int = 18
    target_rate: float = 0.9

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return 3, self.size, self.size

    def network(self, bidirectional: bool, **options: Any) -> nn.Module:
        """Our network of this shape; BCM's divides queries, keys and values by their norm, as the official one does.

        The official first convolution gives channels * channel_mult[0], which DDPM++'s and ours does not: here it
        does, by the factor's being in the channels. The level embedding keeps its size but for its first layer.
        """
        first = self.channel_mult[0]
        return UNet(
            self.image_shape,
            channels=self.channels * first,
            channel_mult=[mult // first for mult in self.channel_mult],
            embedding_mult=4 // first,
            num_blocks=self.num_blocks,
            attention_resolutions=self.attention_resolutions,
            channels_per_head=self.channels_per_head,
            qk_norm=bidirectional,
            bidirectional=bidirectional,
            **options,
        )

    def ddpmpp(self, **options: Any) -> nn.Module:
        """Our network of this shape with DDPM++'s blocks, as `configs/network/cifar10_ddpmpp.yaml`."""
        return UNet(
            self.image_shape,
            channels=self.channels,
            channel_mult=self.channel_mult,
            num_blocks=self.num_blocks,
            attention_resolutions=self.attention_resolutions,
            attend_all_up=False,
            adaptive_scale=False,
            skip_scale=0.5**0.5,
            skip_projection=True,
            **options,
        )


SHAPES = {
    "small": Shape(16, 32, (1, 2), 1, (8,), 32, batch_size=16),
    "cifar": Shape(32, 128, (2, 2, 2), 4, (16,), 64, batch_size=2),
}
