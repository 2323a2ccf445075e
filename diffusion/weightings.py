"""Weights of a loss by noise level. Each is called with levels (B,) and returns (B,)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class EDMWeight:
    """lambda(t) = (t^2 + s^2)/(t s)^2, the inverse square of c_out (arXiv 2206.00364, table 1)."""

    sigma_data: float = 0.5

    def __call__(self, t: Tensor) -> Tensor:
        return (t**2 + self.sigma_data**2) / (t * self.sigma_data) ** 2


@dataclass(frozen=True)
class ConstantGap:
    """lambda(t, s) = 1 (CD and CT, arXiv 2303.01469)."""

    def __call__(self, t: Tensor, s: Tensor) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True)
class InverseGap:
    """lambda(t, s) = 1/|t - s|^power: power 1 in iCT (arXiv 2310.14189) and in both terms of BCM (2403.18035)."""

    power: float = 1.0

    def __call__(self, t: Tensor, s: Tensor) -> Tensor:
        return (t - s).abs() ** -self.power
