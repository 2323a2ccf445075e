"""Laws of the levels that a teacher's solver visits in a training step of distillation: t = p_0 > p_1 > ... > p_k = s.

    path(v, w, progress, sigma_min, sigma_max) -> (k + 1, B)

with uniform numbers v (B,), one for each image, and w, one for the whole batch of all processes: it decides how many
solver steps k a training step takes, which must be the same for every image and process.
"""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from diffusion.levels import draw_index
from diffusion.noise import karras_grid_on
from diffusion.pairs import PairLaw


class PathLaw(Protocol):
    """What a distillation asks for the levels of a step."""

    def path(self, v: Tensor, w: float, progress: float, sigma_min: float, sigma_max: float) -> Tensor:
        """Uniform numbers v (B,), w -> descending levels (k + 1, B), k >= 1."""


class TrajectoryLaw(PathLaw, Protocol):
    """What CTM asks beside: a level s <= u below the end u = p_k of the path, where both of its ways are compared."""

    def ends(self, v: Tensor, u: Tensor, progress: float, sigma_min: float, sigma_max: float) -> Tensor:
        """Uniform numbers v (B,), levels u (B,) -> levels s (B,), sigma_min <= s <= u."""


@dataclass(frozen=True)
class GridPaths:
    """k neighbouring intervals of a Karras grid of N(progress) intervals, starting at any point with equal probability.

    k = 1 is the law of CD (Song et al. 2023, arXiv 2303.01469, algorithm 2: N = 17 intervals for CIFAR-10, 39 for
    ImageNet-64); with max_jump = N and power = 1 it is CTM's (Kim et al. 2024, arXiv 2310.02279, as in sony/ctm).

    Args:
        steps: number of intervals as a function of progress, e.g. `ConstantSteps(17)`.
        max_jump: k lies in 1..min(max_jump, N), >= 1.
        power: the probability of k is proportional to k^power.
        rho: curvature of the grid.
    """

    steps: Callable[[float], int]
    max_jump: int = 1
    power: float = 1.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if self.max_jump < 1:
            raise ValueError(f"max_jump={self.max_jump}: a path has at least one interval")

    def grid(self, progress: float, sigma_min: float, sigma_max: float, device: torch.device | None = None) -> Tensor:
        """The increasing grid (N + 1,) at this progress, kept on the device between steps."""
        return karras_grid_on(self.steps(progress), sigma_min, sigma_max, self.rho, device or torch.device("cpu"))

    def path(self, v: Tensor, w: float, progress: float, sigma_min: float, sigma_max: float) -> Tensor:
        grid = self.grid(progress, sigma_min, sigma_max, v.device)
        k = self.jump(w, len(grid) - 1)
        start = draw_index(v, torch.ones(len(grid) - k, device=v.device)) + k
        return grid[start - torch.arange(k + 1, device=v.device)[:, None]]

    def jump(self, w: float, n: int) -> int:
        """The number of intervals k at w in [0, 1), of a grid that has n."""
        cumulative = list(accumulate(k**self.power for k in range(1, min(self.max_jump, n) + 1)))
        return 1 + min(bisect_right(cumulative, w * cumulative[-1]), len(cumulative) - 1)

    def ends(self, v: Tensor, u: Tensor, progress: float, sigma_min: float, sigma_max: float) -> Tensor:
        """Every point of the grid up to u, u and sigma_min among them, with equal probability (CTM, as in sony/ctm).

        `u` must be points of the grid at this progress, float64.
        """
        grid = self.grid(progress, sigma_min, sigma_max, v.device)
        points = torch.searchsorted(grid, u) + 1
        return grid[(v.double() * points).long().minimum(points - 1)]


@dataclass(frozen=True)
class PairPaths:
    """One solver step between the two levels of a law of pairs, e.g. iCT's or ECT's.

    Args:
        pairs: law of t > s, see `diffusion.pairs`.
    """

    pairs: PairLaw

    def path(self, v: Tensor, w: float, progress: float, sigma_min: float, sigma_max: float) -> Tensor:
        return torch.stack(self.pairs.pairs(v, progress, sigma_min, sigma_max))
