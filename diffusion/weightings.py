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
class FlowWeight:
    """lambda(t) = ((1 + t)/t)^2: of D - x0 it makes the error of a straight path's velocity (2209.03003, eq. 1)."""

    def __call__(self, t: Tensor) -> Tensor:
        return ((1 + t) / t) ** 2


@dataclass(frozen=True)
class TruncatedSNR:
    """lambda(t) = max(1/t^2, 1), so that no level is without weight (Salimans & Ho 2022, arXiv 2202.00512)."""

    def __call__(self, t: Tensor) -> Tensor:
        return (t**-2).clamp(min=1)


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


@dataclass(frozen=True)
class ForwardKL:
    """lambda(t, s) = 1/(2 (t^2 - s^2)): times ||x_s - x_s'||^2 it is KL(q(x_t | x_s') || q(x_t | x_s)).

    UFOGen's reconstruction weight (Xu et al. 2024, arXiv 2311.09257): with alpha_bar = 1/(1 + sigma^2) it is
    (1 - beta_t) alpha_bar_s/(2 beta_t) = alpha_bar_t/(2 beta_t), of the squared norm ||x0 - x0'||^2.
    """

    def __call__(self, t: Tensor, s: Tensor) -> Tensor:
        return 0.5 / ((t - s) * (t + s))


@dataclass(frozen=True)
class ClampedSNR:
    """lambda(t, s) = min(1/t^2, limit), the signal-to-noise ratio of x_t, clamped.

    Unclamped it makes an error of x0 one of the noise, which UFOGen's released code regresses on; YOSO clamps at 5
    (Luo et al. 2024, arXiv 2403.12931, released code). Both levels are taken as arguments, the second has no effect.
    """

    limit: float = 5.0

    def __post_init__(self) -> None:
        if self.limit <= 0:
            raise ValueError(f"limit={self.limit}: it must be > 0")

    def __call__(self, t: Tensor, s: Tensor) -> Tensor:
        return (t**-2).clamp(max=self.limit)
