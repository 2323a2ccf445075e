"""Laws of the levels a training step compares: neighbours t > s on a trajectory, and BCM's free target u.

Both laws are pure functions of uniform numbers and of the run's progress:

    pairs(v, progress, sigma_min, sigma_max) -> (t, s)           (B,) each, sigma_max >= t > s >= sigma_min
    targets(v, t, progress, sigma_min, sigma_max) -> u           (B,), u != t
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from diffusion.levels import Levels, LogNormal, draw_index
from diffusion.noise import karras_grid


class PairLaw(Protocol):
    """What CT, CD and BCM ask for the levels of a step."""

    def pairs(self, v: Tensor, progress: float, sigma_min: float, sigma_max: float) -> tuple[Tensor, Tensor]:
        """Uniform numbers (B,) -> neighbouring levels t > s, (B,) each."""

    def targets(self, v: Tensor, t: Tensor, progress: float, sigma_min: float, sigma_max: float) -> Tensor:
        """Uniform numbers (B,) and levels t -> BCM's target levels u (B,)."""


@lru_cache(maxsize=64)
def _grid_and_weights(
    levels: Levels, n: int, sigma_min: float, sigma_max: float, rho: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The grid (n + 1,) and the intervals' probabilities (n,), kept on the device between steps.

    The laws of `diffusion.levels` are frozen dataclasses: equal laws share an entry.
    """
    grid = karras_grid(n, sigma_min, sigma_max, rho)
    return grid.to(device), levels.weights(grid).to(device)


@dataclass(frozen=True)
class GridPairs:
    """Neighbours (t, s) = (t_{n+1}, t_n) of a Karras grid of N(progress) intervals; u any other point of it.

    n follows `levels.weights`, u = t_m with m following `target_levels.weights` (default: `levels`) and m != n + 1.
    So CT, iCT and BCM as published (arXiv 2303.01469, 2310.14189, 2403.18035).

    Args:
        steps: number of intervals as a function of progress, e.g. `DoublingSteps()`.
        levels: law of the interval n, iCT's `LogNormal()` by default.
        target_levels: law of BCM's u.
        rho: curvature of the grid.
        reach_top: False as in BCM's released code: the last interval is never drawn for t, and u = t_m has the
            probability of the interval above it, so that neither t nor u is ever sigma_max, at which generation
            starts. With True t may be sigma_max, and u too, by half the probability of the last interval.
    """

    steps: Callable[[float], int]
    levels: Levels | None = None  # a default instance of a protocol would not parse from a config
    target_levels: Levels | None = None
    rho: float = 7.0
    reach_top: bool = True

    def _grid(self, levels: Levels, progress: float, low: float, high: float, v: Tensor) -> tuple[Tensor, Tensor]:
        n = self.steps(progress)
        return _grid_and_weights(levels, n, low, high, self.rho, v.device)  # type: ignore[arg-type]  # hashable

    def pairs(self, v: Tensor, progress: float, sigma_min: float, sigma_max: float) -> tuple[Tensor, Tensor]:
        grid, weights = self._grid(self.levels or LogNormal(), progress, sigma_min, sigma_max, v)
        n = draw_index(v, weights if self.reach_top or len(weights) == 1 else weights[:-1])
        return grid[n + 1], grid[n]

    def targets(self, v: Tensor, t: Tensor, progress: float, sigma_min: float, sigma_max: float) -> Tensor:
        """As above; `t` must be points of the grid at this progress."""
        grid, weights = self._grid(self.target_levels or self.levels or LogNormal(), progress, sigma_min, sigma_max, v)
        top = weights[-1:] / 2 if self.reach_top else torch.zeros_like(weights[-1:])
        points = torch.cat([weights[:-1], weights[-1:] - top, top])
        others = points.repeat(len(v), 1).scatter(1, torch.searchsorted(grid, t)[:, None], 0.0)
        return grid[draw_index(v, others)]


@dataclass(frozen=True)
class ContinuousPairs:
    """t from a continuous law, s = max(gap(t, progress), sigma_min), u from a continuous law, no nearer to t than s.

    With `ECTGap` and `LogNormal(-1.1, 2)` this is ECT (Geng et al. 2024, arXiv 2406.14548).

    Note: ECT's r is 0 where its gap reaches the data, and the target there is x0; here it is sigma_min, where the
    boundary condition makes the target x0 + sigma_min noise, so that ln(0) never enters a network.
    """

    gap: Callable[[Tensor, float], Tensor]
    levels: Levels | None = None  # a default instance of a protocol would not parse from a config
    target_levels: Levels | None = None

    def pairs(self, v: Tensor, progress: float, sigma_min: float, sigma_max: float) -> tuple[Tensor, Tensor]:
        # above sigma_min by a part in a thousand, so that t - s stays positive
        t = (self.levels or LogNormal()).continuous(v, 1.001 * sigma_min, sigma_max)
        return t, self.gap(t, progress).clamp(min=sigma_min)

    def targets(self, v: Tensor, t: Tensor, progress: float, sigma_min: float, sigma_max: float) -> Tensor:
        """As above; a u nearer to t than s moves away to that distance, or the mean of 1/|t - u| would be infinite."""
        u = (self.target_levels or self.levels or LogNormal()).continuous(v, sigma_min, sigma_max)
        s = self.gap(t, progress).clamp(min=sigma_min)
        u = torch.where(u < t, u.minimum(s), u.maximum(2 * t - s))
        return torch.where(u > sigma_max, s, u)
