"""Distances between images: (B, ...), (B, ...) -> (B,)."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class SquaredL2:
    """Mean over the elements of (a - b)^2."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().flatten(1).mean(1)


@dataclass(frozen=True)
class L1:
    """Mean over the elements of |a - b|."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().flatten(1).mean(1)


@dataclass(frozen=True)
class PseudoHuber:
    """d(a, b) = sqrt(||a - b||^2 + c^2) - c on the norm of the whole image (iCT, arXiv 2310.14189, sec. 3.3).

    Args:
        c_factor: c = c_factor sqrt(dim); the paper's 0.00054 gives 0.030 for CIFAR-10. It must be > 0: at c = 0 the
            gradient at a = b is not a number.
        per_root_dim: divide by sqrt(dim), as BCM's released code does and iCT does not.
    """

    c_factor: float = 0.00054
    per_root_dim: bool = False

    def __post_init__(self) -> None:
        if self.c_factor <= 0:
            raise ValueError(f"c_factor={self.c_factor}: it must be > 0, or the gradient at zero distance is NaN")

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        difference = (a - b).flatten(1)
        root_dim = math.sqrt(difference.shape[1])
        c = self.c_factor * root_dim
        # s/(sqrt(s + c^2) + c) is sqrt(s + c^2) - c without cancellation at small s
        square = difference.square().sum(1)
        distance = square / (torch.sqrt(square + c * c) + c)
        return distance / root_dim if self.per_root_dim else distance


class LPIPS:
    """Learned perceptual distance of images in [-1, 1] (Zhang et al. 2018, arXiv 1801.03924), by torchmetrics.

    The images are brought to `size` pixels by bilinear interpolation, as CD and CT do below 256 (arXiv 2303.01469).
    The backbone's weights come from torchvision's cache in $TORCH_HOME/hub/checkpoints.

    Args:
        net_type: "vgg", "alex" or "squeeze".
        size: side in pixels at which images are compared.
    """

    def __init__(self, net_type: Literal["vgg", "alex", "squeeze"] = "vgg", size: int = 224):
        from torchmetrics.functional.image.lpips import _NoTrainLpips

        self.net = _NoTrainLpips(net=net_type)
        self.size = size

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        self.net.to(a.device)
        a, b = (F.interpolate(x, size=(self.size, self.size), mode="bilinear").expand(-1, 3, -1, -1) for x in (a, b))
        return self.net(a, b).flatten()
