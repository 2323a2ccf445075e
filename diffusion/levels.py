"""Distributions of noise levels: inverse distribution functions of uniform numbers, continuous or on a grid.

A distribution is a frozen dataclass with

    continuous(u, sigma_min, sigma_max) -> sigma     u (B,) in [0, 1), the law truncated to [sigma_min, sigma_max]
    weights(grid) -> (N,)                            probabilities of the N intervals of an increasing grid (N + 1,)

so that drawing a level is a pure function of uniform numbers.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from diffusion.noise import flow_level, flow_time


class Levels(Protocol):
    """What training needs to know of a distribution of noise levels."""

    def continuous(self, u: Tensor, sigma_min: float, sigma_max: float) -> Tensor:
        """Map uniform numbers (B,) to levels in [sigma_min, sigma_max]."""

    def weights(self, grid: Tensor) -> Tensor:
        """Probabilities (N,), summing to 1, of the intervals of an increasing grid (N + 1,)."""


@dataclass(frozen=True)
class LogNormal:
    """ln sigma ~ N(mean, std^2), restricted to the range in use.

    On a grid, P_i ~ erf((ln s_{i+1} - mean)/(sqrt2 std)) - erf((ln s_i - mean)/(sqrt2 std))
    (Song & Dhariwal 2023, arXiv 2310.14189, iCT: mean -1.1, std 2.0; EDM trains with mean -1.2, std 1.2).
    """

    mean: float = -1.1
    std: float = 2.0

    def __post_init__(self) -> None:
        if self.std <= 0:
            raise ValueError(f"std={self.std}: a log-normal distribution needs std > 0")

    def _cdf(self, sigma: Tensor) -> Tensor:
        return torch.special.ndtr((sigma.log() - self.mean) / self.std)

    def continuous(self, u: Tensor, sigma_min: float, sigma_max: float) -> Tensor:
        low, high = self._cdf(torch.tensor([sigma_min, sigma_max], dtype=torch.float64)).tolist()
        self._require(high - low, sigma_min, sigma_max)
        z = torch.special.ndtri(low + u.double() * (high - low))
        return torch.exp(self.mean + self.std * z).clamp(sigma_min, sigma_max)

    def weights(self, grid: Tensor) -> Tensor:
        weights = self._cdf(grid).diff()
        self._require(float(weights.sum()), float(grid[0]), float(grid[-1]))
        return weights / weights.sum()

    def _require(self, mass: float, sigma_min: float, sigma_max: float) -> None:
        if not mass > 0:
            raise ValueError(f"{self}: this law has no mass in the range of levels [{sigma_min:g}, {sigma_max:g}]")


@dataclass(frozen=True)
class UniformRho:
    """Uniform in sigma^(1/rho): on a Karras grid of the same rho every interval is equally likely.

    The law of CD and CT (Song et al. 2023, arXiv 2303.01469, algorithms 2 and 3).

    Args:
        rho: curvature, > 0.
        top: the law covers this share of the range of sigma^(1/rho), from sigma_max downwards, in (0, 1]; 0.7 in the
            denoising term of CTM (sony/ctm at 87cca3b, resample.py).
    """

    rho: float = 7.0
    top: float = 1.0

    def __post_init__(self) -> None:
        if self.rho <= 0:
            raise ValueError(f"rho={self.rho}: it must be > 0")
        if not 0 < self.top <= 1:
            raise ValueError(f"top={self.top}: a share lies in (0, 1]")

    def _start(self, low: float, high: float) -> float:
        return low if self.top == 1 else high - self.top * (high - low)

    def continuous(self, u: Tensor, sigma_min: float, sigma_max: float) -> Tensor:
        low, high = sigma_min ** (1 / self.rho), sigma_max ** (1 / self.rho)
        low = self._start(low, high)
        return (low + u.double() * (high - low)) ** self.rho

    def weights(self, grid: Tensor) -> Tensor:
        points = grid ** (1 / self.rho)
        weights = points.clamp(min=self._start(float(points[0]), float(points[-1]))).diff()
        return weights / weights.sum()


@dataclass(frozen=True)
class UniformFlowTime:
    """a = sigma/(1 + sigma) uniform: every point of a straight path is equally likely (Liu et al. 2022, 2209.03003).

    Note: since ln(a/(1 - a)) = ln sigma, a logit-normal law of a is `LogNormal` with the same mean and std.
    """

    def continuous(self, u: Tensor, sigma_min: float, sigma_max: float) -> Tensor:
        low, high = flow_time(torch.tensor([sigma_min, sigma_max], dtype=torch.float64)).tolist()
        return flow_level(low + u.double() * (high - low)).clamp(sigma_min, sigma_max)

    def weights(self, grid: Tensor) -> Tensor:
        weights = flow_time(grid).diff()
        return weights / weights.sum()


@dataclass(frozen=True)
class Mixture:
    """With probability `share` the law `second`, otherwise `first`."""

    first: Levels
    second: Levels
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share={self.share}: a probability lies in [0, 1]")

    def continuous(self, u: Tensor, sigma_min: float, sigma_max: float) -> Tensor:
        u = u.double()
        in_second = u < self.share
        v = torch.where(in_second, u / max(self.share, 1e-12), (u - self.share) / max(1 - self.share, 1e-12))
        v = v.clamp(0, math.nextafter(1.0, 0.0))
        first = self.first.continuous(v, sigma_min, sigma_max)
        return torch.where(in_second, self.second.continuous(v, sigma_min, sigma_max), first)

    def weights(self, grid: Tensor) -> Tensor:
        return (1 - self.share) * self.first.weights(grid) + self.share * self.second.weights(grid)


def draw_index(u: Tensor, weights: Tensor) -> Tensor:
    """Indices (B,) with the given probabilities, the inverse distribution function at u (B,) in [0, 1).

    `weights` is (N,), or (B, N) for a law of its own for every image; an entry of weight 0 is never drawn.
    """
    cumulative = weights.double().cumsum(-1)
    u = (u.double() * cumulative[..., -1]).unsqueeze(-1)
    index = torch.searchsorted(cumulative, u if weights.ndim == 2 else u.squeeze(-1), right=True)
    index = index.squeeze(-1) if weights.ndim == 2 else index
    return index.clamp(max=weights.shape[-1] - 1)
