"""The few levels of a diffusion-GAN: which level t a generator starts from, and at which level s it is judged.

UFOGen, SIDDM and DDGAN cut the way from sigma_min to sigma_max into T rungs (T = 4). A generator at rung i makes x0,
from it comes a point at the rung below, and a discriminator compares that with the data's points there. All laws are
pure functions of uniform numbers (B,) in [0, 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from diffusion.grids import CosineGrid, Grid
from diffusion.levels import Levels


class Rungs(NamedTuple):
    """A draw of a ladder: the levels t, the levels one rung below, (B,) each; place of t among all levels (B,)."""

    t: Tensor
    below: Tensor
    place: Tensor


@lru_cache(maxsize=64)
def _kept(levels: tuple[float, ...], device: torch.device) -> Tensor:
    """The levels, float64, kept on the device between steps."""
    return torch.tensor(levels, dtype=torch.float64, device=device)


@dataclass(frozen=True)
class Ladder:
    """T rungs of equal height in the variable of `grid`, from sigma_min (data, practically) to sigma_max (noise).

    Args:
        grid: where the rungs lie: `CosineGrid`, `VPGrid`, `LinearBetaGrid`, or `GivenLevels` with a list of T + 1
            levels, the last one sigma_min.
        steps: T >= 1.
        substeps: 1: t is one of the T rungs. k > 1: t is any of k T finer levels and `below` lies k of them lower, so
            that the generator learns all levels: UFOGen's released code has k = 250 of 1,000 levels.
    """

    grid: Grid = field(default_factory=CosineGrid)
    steps: int = 4
    substeps: int = 1

    def __post_init__(self) -> None:
        if self.steps < 1 or self.substeps < 1:
            raise ValueError(f"steps={self.steps}, substeps={self.substeps}: both must be at least 1")

    def levels(self, sigma_min: float, sigma_max: float, device: torch.device | str = "cpu") -> Tensor:
        """All T k + 1 levels, ascending, float64; not to be changed in place."""
        falling = self.grid.levels(self.steps * self.substeps + 1, sigma_min, sigma_max)
        return _kept(tuple(falling[::-1]), torch.device(device))

    def draw(self, u: Tensor, sigma_min: float, sigma_max: float) -> Rungs:
        """t uniform among all levels but the lowest, by u (B,)."""
        levels = self.levels(sigma_min, sigma_max, u.device)
        place = 1 + (u * (len(levels) - 1)).long()
        return Rungs(levels[place], levels[(place - self.substeps).clamp(min=0)], place)

    def schedule(self, n: int, sigma_min: float, sigma_max: float) -> tuple[float, ...]:
        """The n descending levels that n evaluations start from, spread evenly over the ladder, from the top.

        Raises:
            ValueError: there are fewer than n levels.
        """
        levels = self.levels(sigma_min, sigma_max)
        top = len(levels) - 1
        if not 1 <= n <= top:
            raise ValueError(f"steps={n}: a ladder of {top} levels can be descended in 1 to {top} evaluations")
        return tuple(float(levels[(2 * top * (n - k) + n) // (2 * n)]) for k in range(n))

    def schedules(self, sigma_min: float, sigma_max: float) -> Sequence[tuple[float, ...]]:
        """`schedule` for 1 to T evaluations."""
        return [self.schedule(n, sigma_min, sigma_max) for n in range(1, self.steps + 1)]


class JudgedLevel(Protocol):
    """At which level s (B,) the discriminator compares samples from t with data."""

    def __call__(self, v: Tensor, drawn: Rungs, levels: Tensor) -> Tensor:
        """Uniform numbers (B,), the draw of t and all levels of the ladder -> s (B,)."""


@dataclass(frozen=True)
class PreviousLevel:
    """s is the rung below t, as in the papers: from T = 4 VP levels the one-step path is judged at sigma = 17."""

    def __call__(self, v: Tensor, drawn: Rungs, levels: Tensor) -> Tensor:
        return drawn.below


@dataclass(frozen=True)
class AnyLevelBelow:
    """s is uniform among all levels of the ladder below t, the lowest included."""

    def __call__(self, v: Tensor, drawn: Rungs, levels: Tensor) -> Tensor:
        return levels[(v * drawn.place).long()]


@dataclass(frozen=True)
class IndependentLevel:
    """s follows a law of its own, whatever t, as in LADD (Sauer et al. 2024, arXiv 2403.12015).

    Args:
        law: e.g. `diffusion.levels.LogNormal`, restricted to the ladder's range.
    """

    law: Levels

    def __call__(self, v: Tensor, drawn: Rungs, levels: Tensor) -> Tensor:
        return self.law.continuous(v, float(levels[0]), float(levels[-1]))
