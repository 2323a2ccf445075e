"""Where a sampler's noise levels lie: equally spaced in some variable of the level, or given one by one.

The same variables are those in which DEIS's polynomials are (`diffusion.ode_samplers.DEIS`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.noise import cosine_grid, karras_grid, vp_grid


def check_descending(sigmas: Sequence[float]) -> None:
    """Raise ValueError unless `sigmas` are one or more levels > 0, each below the one before."""
    _check_order(sigmas, sigmas, "descending")


def check_ascending(sigmas: Sequence[float]) -> None:
    """Raise ValueError unless `sigmas` are one or more levels > 0, each above the one before."""
    _check_order(sigmas, sigmas[::-1], "ascending")


def _check_order(sigmas: Sequence[float], falling: Sequence[float], order: str) -> None:
    ordered = all(a > b for a, b in pairwise(falling))
    if len(sigmas) < 1 or not ordered or not min(sigmas) > 0:  # in this form NaN is refused too
        raise ValueError(f"sigmas={list(sigmas)}: noise levels must be {order}, without repetition, and > 0")


class Grid(ABC):
    """A law of the levels of a sampler."""

    @abstractmethod
    def levels(self, n: int, sigma_min: float, sigma_max: float) -> list[float]:
        """The n >= 1 descending levels, from sigma_max to sigma_min; sigma_max alone if n = 1.

        Raises:
            ValueError: this grid has no n levels; the message tells which numbers it has.
        """


class Scale(Grid):
    """A variable v(sigma), increasing, in which levels are equally spaced."""

    @abstractmethod
    def __call__(self, sigma: Tensor) -> Tensor:
        """v at the levels `sigma` > 0, of any shape."""

    @abstractmethod
    def spaced(self, n: int, sigma_min: float, sigma_max: float) -> Tensor:
        """n + 1 increasing levels, equally spaced in v, from sigma_min to sigma_max; float64."""

    def levels(self, n: int, sigma_min: float, sigma_max: float) -> list[float]:
        if n < 1 or not 0 < sigma_min < sigma_max:
            raise ValueError(f"n={n}, sigma_min={sigma_min}, sigma_max={sigma_max}: n >= 1, 0 < sigma_min < sigma_max")
        if n == 1:
            return [sigma_max]
        inner = self.spaced(n - 1, sigma_min, sigma_max).flip(0)[1:-1]
        return [sigma_max, *inner.tolist(), sigma_min]  # the ends exactly, whatever the formulas' last bits


@dataclass(frozen=True)
class KarrasGrid(Scale):
    """v = sigma^(1/rho) (Karras et al. 2022, arXiv 2206.00364, eq. 5).

    Args:
        rho: curvature, > 0; 1 for levels equally spaced in sigma itself.
    """

    rho: float = 7.0

    def __post_init__(self) -> None:
        if self.rho <= 0:
            raise ValueError(f"rho={self.rho}: it must be > 0")

    def __call__(self, sigma: Tensor) -> Tensor:
        return sigma ** (1 / self.rho)

    def spaced(self, n: int, sigma_min: float, sigma_max: float) -> Tensor:
        return karras_grid(n, sigma_min, sigma_max, self.rho)


@dataclass(frozen=True)
class LogGrid(Scale):
    """v = ln sigma, which is -lambda of DPM-Solver (Lu et al. 2022, arXiv 2206.00927)."""

    def __call__(self, sigma: Tensor) -> Tensor:
        return sigma.log()

    def spaced(self, n: int, sigma_min: float, sigma_max: float) -> Tensor:
        return torch.linspace(math.log(sigma_min), math.log(sigma_max), n + 1, dtype=torch.float64).exp()


@dataclass(frozen=True)
class VPGrid(Scale):
    """v = t, the time of the variance-preserving SDE: ln(1 + sigma^2) = beta_min t + (beta_max - beta_min) t^2/2.

    Song et al. 2021 (arXiv 2011.13456), eq. 33; DDPM's linear schedule in continuous time.

    Args:
        beta_min, beta_max: rate of the noise at t = 0 and t = 1, 0 < beta_min < beta_max.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min < self.beta_max:
            raise ValueError(f"beta_min={self.beta_min}, beta_max={self.beta_max}: 0 < beta_min < beta_max is needed")

    def __call__(self, sigma: Tensor) -> Tensor:
        twice_log = 2 * (sigma**2).log1p()  # the root of the quadratic without its cancellation at small sigma
        root = (self.beta_min**2 + (self.beta_max - self.beta_min) * twice_log).sqrt()
        return twice_log / (self.beta_min + root)

    def spaced(self, n: int, sigma_min: float, sigma_max: float) -> Tensor:
        low, high = self(torch.tensor([sigma_min, sigma_max], dtype=torch.float64)).tolist()
        # vp_grid ends at time 1: the same SDE in the time t/high
        first = self.beta_min * high
        return vp_grid(n, first, first + (self.beta_max - self.beta_min) * high**2, low / high)


@dataclass(frozen=True)
class CosineGrid(Scale):
    """v = t, the time of the cosine schedule (Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 17).

    Args:
        eps: the schedule's offset s, > 0.
    """

    eps: float = 0.008

    def __post_init__(self) -> None:
        if self.eps <= 0:
            raise ValueError(f"eps={self.eps}: the offset is > 0")

    def __call__(self, sigma: Tensor) -> Tensor:
        norm = math.cos(math.pi / 2 * self.eps / (1 + self.eps)) ** 2
        angle = (norm / (1 + sigma**2)).sqrt().acos()
        return (1 + self.eps) * angle / (math.pi / 2) - self.eps

    def spaced(self, n: int, sigma_min: float, sigma_max: float) -> Tensor:
        low, high = self(torch.tensor([sigma_min, sigma_max], dtype=torch.float64)).tolist()
        return cosine_grid(n, self.eps, low, high)


@dataclass(frozen=True)
class LinearBetaGrid(Scale):
    """v = i, the index in DDPM's chain of n steps with equally spaced betas (Ho et al. 2020, arXiv 2006.11239, sec. 4).

    alpha_bar_i is the product of 1 - beta_j, j <= i; between two indices ln alpha_bar is a straight line, and at i = -1
    it is 0: the data. Its own top is sigma = 157.4 at i = 999; so that T = 4 steps stand at 999, 749, 499 and 249.

    Args:
        n: steps of the chain, >= 1.
        beta_start, beta_end: of the first and the last step, 0 < beta_start <= beta_end < 1.
    """

    n: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def __post_init__(self) -> None:
        if self.n < 1 or not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"n={self.n}, beta_start={self.beta_start}, beta_end={self.beta_end}: n >= 1 and "
                f"0 < beta_start <= beta_end < 1 are needed"
            )

    def _table(self) -> NDArray[np.float64]:
        """-ln alpha_bar at i = -1, ..., n - 1."""
        betas = np.linspace(self.beta_start, self.beta_end, self.n)
        return np.concatenate([[0.0], -np.log1p(-betas).cumsum()])

    def __call__(self, sigma: Tensor) -> Tensor:
        index = np.interp(np.log1p(sigma.double().cpu().numpy() ** 2), self._table(), np.arange(-1.0, self.n))
        return torch.as_tensor(index, dtype=torch.float64).to(sigma)

    def spaced(self, n: int, sigma_min: float, sigma_max: float) -> Tensor:
        table = self._table()
        if sigma_max**2 > 1.0001 * math.expm1(table[-1]):
            raise ValueError(f"sigma_max={sigma_max}: this chain ends at {math.sqrt(math.expm1(table[-1])):.4g}")
        low, high = self(torch.tensor([sigma_min, sigma_max], dtype=torch.float64)).tolist()
        logs = np.interp(np.linspace(low, high, n + 1), np.arange(-1.0, self.n), table)
        return torch.from_numpy(np.sqrt(np.expm1(logs)))


@dataclass(frozen=True)
class GivenLevels(Grid):
    """Levels one by one, as a search of the schedule finds them.

    Args:
        schedules: lists of descending levels > 0, no two of the same length.
    """

    schedules: Sequence[Sequence[float]]

    def __post_init__(self) -> None:
        for sigmas in self.schedules:
            check_descending(sigmas)
        if len({len(sigmas) for sigmas in self.schedules}) < max(1, len(self.schedules)):
            raise ValueError(f"schedules={self.schedules}: one list of levels for each number of levels is needed")

    def levels(self, n: int, sigma_min: float, sigma_max: float) -> list[float]:
        """The list of n levels, which may end above or below sigma_min, but not start above sigma_max.

        Raises:
            ValueError: there is no such list, or it starts above sigma_max.
        """
        for sigmas in self.schedules:
            if len(sigmas) == n and sigmas[0] > sigma_max:
                raise ValueError(f"sigmas={list(sigmas)}: no level may lie above sigma_max={sigma_max}")
            if len(sigmas) == n:
                return list(sigmas)
        raise ValueError(f"{n} noise levels are asked for, and given are lists of {[len(s) for s in self.schedules]}")
