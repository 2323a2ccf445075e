"""Minibatch statistics, by which a discriminator sees a lack of variety."""

import torch
from torch import Tensor, nn


class MinibatchDeviation(nn.Module):
    """Appends one constant channel: the standard deviation within a group of images (Karras et al. 2018, 1710.10196).

    sqrt(biased variance over the group + 1e-8) of every feature, averaged over channels and places, as DDGAN's released
    code. Groups are of consecutive images, so that processes with slices of one batch compute what a single one does;
    the official groups are of images batch/group apart, and need a divisible batch. Here the rest of a batch forms a
    group of its own; a single image has the deviation 1e-4 and no gradient.

    Args:
        group: images in a group, >= 1.

    Raises:
        ValueError: `group` is below 1.
    """

    def __init__(self, group: int = 4):
        super().__init__()
        if group < 1:
            raise ValueError(f"minibatch_group={group}: 0 for no minibatch statistics, else at least 1")
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, ...) -> (B, C + 1, ...)."""
        whole = len(x) - len(x) % self.group
        groups = x[:whole].unflatten(0, (-1, self.group)), x[whole:][None]
        deviations = [_deviation(images) for images in groups if images.numel()]
        channel = torch.cat(deviations).to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)).expand_as(x[:, :1])
        return torch.cat([x, channel], dim=1)


def _deviation(groups: Tensor) -> Tensor:
    """Groups of images (G, group, ...) -> the deviation that each image is told (G * group,), float32 at least."""
    precise = groups.to(torch.promote_types(groups.dtype, torch.float32))
    deviation = (precise.var(1, correction=0) + 1e-8).sqrt().flatten(1).mean(1)
    return deviation.repeat_interleave(groups.shape[1])
