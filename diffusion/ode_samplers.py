"""Samplers of a diffusion model (posterior mean) that solve the probability-flow ODE dx/dsigma = (x - D)/sigma.

| sampler | order | evaluations for n levels |
|---|---|---|
| Euler | 1 | n |
| Heun | 2 | 2n - 1 |
| DPMSolver2 | 2 | 2n - 1 |
| DPMSolverFast | 3, at last less | 3(n - 2), one or two more |
| DPMSolverPP2M | 2 | n |
| DEIS | degree + 1 | n |

All but DPMSolverFast go from the last level to 0 by Euler's step, whose result is D there. Those that add noise at
every step are in `diffusion/sde_samplers.py`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from diffusion.denoisers import Denoise
from diffusion.grids import Grid, KarrasGrid, LogGrid, Scale, check_descending
from diffusion.noise import expand
from diffusion.solvers import (
    Step,
    euler_step,
    heun_step,
    midpoint_step,
    multistep_coefficients,
    second_order_multistep,
    slope,
    solve,
    third_order_step,
)

Noise = Callable[[], Tensor]
"""The next draw of standard normal noise, as of `diffusion.rng.ImageNoise`."""


@dataclass(frozen=True)
class Sampler(ABC):
    """A way down the noise levels: how many there are for a number of network evaluations, where, and the loop.

    Args:
        grid: where the levels lie.
    """

    grid: Grid = field(default=KarrasGrid())

    @abstractmethod
    def num_levels(self, steps: int) -> int:
        """How many positive levels are visited with exactly `steps` >= 1 network evaluations.

        Raises:
            ValueError: this sampler cannot spend exactly `steps`; the message tells which numbers it can.
        """

    @abstractmethod
    def descend(self, denoise: Denoise, x: Tensor, levels: Tensor, noise: Noise, steps: int | None) -> Tensor:
        """From x (B, C, H, W) at levels[0] down the levels (n, B), all float64; `denoise` knows the labels."""

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        sigmas: Sequence[float],
        noise: Noise,
        label: Tensor | None = None,
        steps: int | None = None,
    ) -> Tensor:
        """From x (B, C, H, W) at sigmas[0] down the descending positive levels `sigmas` and on to 0.

        The state is float64 and the network is called in the precision of x, as in EDM's code.

        Args:
            denoise: a diffusion model (posterior mean).
            x: the start.
            sigmas: the levels visited.
            noise: fresh standard normal noise like x, for the samplers that add any.
            label: (B,) or None.
            steps: evaluations, where the number of levels does not tell it (DPMSolverFast).
        """
        check_descending(sigmas)
        dtype, labels = x.dtype, label

        def denoise64(x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
            return denoise(x.to(dtype), sigma, labels).double()

        # non_blocking: a training step that solves the teacher's ODE must not wait for what the device is doing
        levels = torch.tensor(sigmas, dtype=torch.float64).to(x.device, non_blocking=True)
        levels = levels[:, None].expand(-1, len(x))
        return self.descend(denoise64, x.double(), levels, noise, steps).to(dtype)

    def levels(self, steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0) -> list[float]:
        """The levels visited with `steps` evaluations, descending.

        Raises:
            ValueError: as `num_levels`, or the grid has no such number of levels.
        """
        if steps < 1:
            raise ValueError(f"steps={steps}: at least one evaluation is needed")
        return self.grid.levels(self.num_levels(steps), sigma_min, sigma_max)

    def at_most(self, steps: int) -> int:
        """The largest number of evaluations up to `steps` that this sampler can spend."""
        for n in range(steps, 0, -1):
            try:
                self.levels(n)
            except ValueError:
                continue
            return n
        raise ValueError(f"steps={steps}: {type(self).__name__} on its grid needs more evaluations")

    def sample(
        self,
        denoise: Denoise,
        noise: Noise,
        steps: int,
        label: Tensor | None = None,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
    ) -> Tensor:
        """Generate (B, C, H, W) from noise() at the first level with exactly `steps` network evaluations."""
        sigmas = self.levels(steps, sigma_min, sigma_max)
        return self(denoise, sigmas[0] * noise(), sigmas, noise, label, steps)


@dataclass(frozen=True)
class OneEvaluationALevel(Sampler):
    """The face of samplers with as many evaluations as levels."""

    def num_levels(self, steps: int) -> int:
        return steps


@dataclass(frozen=True)
class TwoEvaluationsALevel(Sampler):
    """The face of samplers with two evaluations a level, the last excepted, from which Euler's step goes to 0."""

    def num_levels(self, steps: int) -> int:
        if steps % 2 == 0:
            name = type(self).__name__
            raise ValueError(f"steps={steps}: {name} takes 1, 3, 5, ... evaluations, the last step being Euler's")
        return (steps + 1) // 2


@dataclass(frozen=True)
class Euler(OneEvaluationALevel):
    """Euler's method, which is DDIM with eta = 0 (Song et al. 2021, arXiv 2010.02502)."""

    def descend(self, denoise: Denoise, x: Tensor, levels: Tensor, noise: Noise, steps: int | None) -> Tensor:
        return denoise(solve(euler_step, denoise, x, levels), levels[-1])


@dataclass(frozen=True)
class Heun(TwoEvaluationsALevel):
    """Heun's method, each step after a little fresh noise: EDM's sampler (Karras et al. 2022, arXiv 2206.00364).

    At each of the n levels t in [s_min, s_max], first up to t' = t (1 + g) with g = min(s_churn/n, sqrt(2) - 1) by
    noise of standard deviation s_noise sqrt(t'^2 - t^2) (algorithm 2). Without churn it is deterministic (algorithm 1).

    Args:
        s_churn: amount of noise in all, >= 0.
        s_min, s_max: the range of levels at which noise is added.
        s_noise: size of the noise added, relative to what the steps take away, > 0.
    """

    s_churn: float = 0.0
    s_min: float = 0.0
    s_max: float = math.inf
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        if self.s_churn < 0 or self.s_noise <= 0:
            raise ValueError(f"s_churn={self.s_churn}, s_noise={self.s_noise}: s_churn >= 0 and s_noise > 0 are needed")

    def churn(self, x: Tensor, t: Tensor, gain: float, noise: Noise) -> tuple[Tensor, Tensor]:
        """x at t (B,) with noise added, and its level t'."""
        if gain == 0 or not self.s_min <= t[0].item() <= self.s_max:
            return x, t
        added = self.s_noise * math.sqrt(gain * (2 + gain)) * t
        return x + expand(added, x) * noise(), t * (1 + gain)

    def descend(self, denoise: Denoise, x: Tensor, levels: Tensor, noise: Noise, steps: int | None) -> Tensor:
        gain = min(self.s_churn / len(levels), math.sqrt(2) - 1)
        for t, s in pairwise(levels):
            x, t_up = self.churn(x, t, gain, noise)
            x = heun_step(denoise, x, t_up, s)
        return denoise(*self.churn(x, levels[-1], gain, noise))


@dataclass(frozen=True)
class DPMSolver2(TwoEvaluationsALevel):
    """DPM-Solver-2 (Lu et al. 2022, arXiv 2206.00927, algorithm 1): by the slope in the middle of ln sigma."""

    def descend(self, denoise: Denoise, x: Tensor, levels: Tensor, noise: Noise, steps: int | None) -> Tensor:
        return denoise(solve(midpoint_step, denoise, x, levels), levels[-1])


@dataclass(frozen=True)
class DPMSolverFast(Sampler):
    """DPM-Solver-fast (Lu et al. 2022, arXiv 2206.00927): third order, any number of evaluations.

    `steps` = 3 m + r evaluations on m + 2 levels equally spaced in ln sigma: m steps of order 3, then one of order r;
    for r = 0, m - 1 of order 3, then of order 2 and 1. There is no step to 0: the result lies at sigma_min.
    """

    grid: Grid = field(default=LogGrid())

    def num_levels(self, steps: int) -> int:
        return steps // 3 + 2

    def descend(self, denoise: Denoise, x: Tensor, levels: Tensor, noise: Noise, steps: int | None) -> Tensor:
        m, last = len(levels) - 2, 2 if steps is None else steps % 3
        if m < 0 or (steps is not None and self.num_levels(steps) != len(levels)):
            raise ValueError(f"steps={steps}, {len(levels)} noise levels: DPMSolverFast visits steps // 3 + 2 of them")
        orders = [3] * m + [last] if last else [3] * (m - 1) + [2, 1]
        solvers: dict[int, Step] = {1: euler_step, 2: midpoint_step, 3: third_order_step}
        for order, t, s in zip(orders, levels[:-1], levels[1:], strict=True):
            x = solvers[order](denoise, x, t, s)
        return x


@dataclass(frozen=True)
class DPMSolverPP2M(OneEvaluationALevel):
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2): D extrapolated in ln sigma from two levels."""

    def descend(self, denoise: Denoise, x: Tensor, levels: Tensor, noise: Noise, steps: int | None) -> Tensor:
        # an infinite level before the first takes the correction away: that step is Euler's
        before, x0_before = torch.full_like(levels[0], math.inf), x
        for t, s in pairwise(levels):
            x0 = denoise(x, t)
            x = second_order_multistep(x, x0, x0_before, before, t, s)
            before, x0_before = t, x0
        return denoise(x, levels[-1])


@dataclass(frozen=True)
class DEIS(OneEvaluationALevel):
    """DEIS: the slope d extrapolated by a polynomial through its last values (Zhang & Chen 2023, arXiv 2204.13902).

    Adams-Bashforth for the exponential integrator, which in these coordinates is the integral of d over sigma. The
    first steps have the degrees 0, 1, ... Variants differ in what it is a polynomial in:

    - `LogGrid()`, ln sigma: diffusers' DEISMultistepScheduler of solver_order degree + 1;
    - `VPGrid()`, the time t of the variance-preserving SDE: the paper's t-AB, for its models;
    - `KarrasGrid(rho=1)`, sigma: the paper's rho-AB; k-diffusion's linear multistep (LMS) of order degree + 1.

    Args:
        degree: of the polynomial, >= 0. The paper and its code count the degree: "3-DEIS" has 3, four slopes and
            order 4. With 0 it is Euler's method.
        variable: v(sigma), in which it is a polynomial.

    Note: ln sigma is the default since of the three it came nearest to the solution of the digits' ODE
    (docs/results.md).
    """

    degree: int = 3
    variable: Scale = field(default=LogGrid())

    def __post_init__(self) -> None:
        if self.degree < 0:
            raise ValueError(f"degree={self.degree}: the degree of a polynomial is >= 0")

    def descend(self, denoise: Denoise, x: Tensor, levels: Tensor, noise: Noise, steps: int | None) -> Tensor:
        slopes: list[Tensor] = []  # the newest first
        for i, (t, s) in enumerate(pairwise(levels)):
            slopes = [slope(denoise, x, t), *slopes[: self.degree]]
            known = levels[i + 1 - len(slopes) : i + 1].flip(0)
            weights = multistep_coefficients(known, s, self.variable)
            x = x + sum(expand(c, x) * d for c, d in zip(weights, slopes, strict=True))
        return denoise(x, levels[-1])
