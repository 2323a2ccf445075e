"""The noise between that of two seeds, from which a model generates the images between two that it generated."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


class NoiseBetween:
    """Noise of a batch whose first image draw lies on the great circle between two's (arXiv 2303.01469, app. D).

    All later draws, and latents, are the first one's: they are the same at every share.

    Args:
        first, second: `ImageNoise` of as many images, fresh.
        share: 0 for the first, 1 for the second.
    """

    def __init__(self, first: Any, second: Any, share: float):
        self.first, self.second, self.share = first, second, share
        self.started = False

    def __len__(self) -> int:
        return len(self.first)

    def __call__(self) -> "Tensor":
        """The next draw (B, C, H, W)."""
        from tasks.few_step import slerp

        if self.started:
            return self.first()
        self.started = True
        return slerp(self.first(), self.second(), self.share)

    def vector(self, size: int) -> "Tensor":
        """The next latent (B, size)."""
        return self.first.vector(size)


def generated_between(
    module: Any,
    steps: int,
    first: "Callable[[], Any]",
    second: "Callable[[], Any]",
    frames: int,
    label: "Tensor | None",
) -> "Tensor":
    """The images between two batches of generated ones (B, frames, C, H, W), both ends included.

    Args:
        module: any that samples.
        steps: network evaluations of each image.
        first, second: give the same source of noise at every call.
        frames: at least 2.
        label: (B,) or None.
    """
    import torch

    shares = [i / (frames - 1) for i in range(frames)]
    made = [module.sample(NoiseBetween(first(), second(), share), steps, label) for share in shares]
    return torch.stack(made, 1)
