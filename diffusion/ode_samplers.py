"""Samplers of a diffusion model (posterior mean) that solve the probability-flow ODE dx/dsigma = (x - D)/sigma."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from diffusion.denoisers import Denoise
from diffusion.noise import karras_grid
from diffusion.solvers import euler_step


@dataclass(frozen=True)
class Sampler(ABC):
    """A way down the noise levels: how many there are for a number of network evaluations, where, and the loop.

    Args:
        rho: curvature of the Karras grid of the levels, > 0.
    """

    rho: float = 7.0

    @abstractmethod
    def num_levels(self, steps: int) -> int:
        """How many positive levels are visited with exactly `steps` >= 1 network evaluations.

        Raises:
            ValueError: this sampler cannot spend exactly `steps`; the message tells which numbers it can.
        """

    @abstractmethod
    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        sigmas: Sequence[float],
        noise: Callable[[], Tensor],
        label: Tensor | None = None,
    ) -> Tensor:
        """From x (B, C, H, W) at sigmas[0] down the descending positive levels `sigmas` and on to 0.

        Args:
            denoise: a diffusion model (posterior mean).
            x: the start.
            sigmas: the levels visited.
            noise: fresh standard normal noise like x, for the samplers that add any.
            label: (B,) or None.
        """

    def levels(self, steps: int, sigma_min: float, sigma_max: float) -> list[float]:
        """The levels from sigma_max to sigma_min for `steps` evaluations; sigma_max alone where there is one level."""
        n = self.num_levels(steps)
        return karras_grid(n - 1, sigma_min, sigma_max, self.rho).flip(0).tolist() if n > 1 else [sigma_max]

    def at_most(self, steps: int) -> int:
        """The largest number of evaluations up to `steps` that this sampler can spend."""
        for n in range(steps, 0, -1):
            try:
                self.num_levels(n)
            except ValueError:
                continue
            return n
        raise ValueError(f"steps={steps}: {type(self).__name__} needs more evaluations")

    def sample(
        self,
        denoise: Denoise,
        noise: Callable[[], Tensor],
        steps: int,
        label: Tensor | None = None,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
    ) -> Tensor:
        """Generate (B, C, H, W) from noise() at sigma_max with `steps` network evaluations."""
        sigmas = self.levels(steps, sigma_min, sigma_max)
        return self(denoise, sigmas[0] * noise(), sigmas, noise, label)


@dataclass(frozen=True)
class Euler(Sampler):
    """Euler's method, which is DDIM with eta = 0 (Song et al. 2021, arXiv 2010.02502); one evaluation a level."""

    def num_levels(self, steps: int) -> int:
        return steps

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        sigmas: Sequence[float],
        noise: Callable[[], Tensor],
        label: Tensor | None = None,
    ) -> Tensor:
        for t, s in pairwise([*sigmas, 0.0]):
            here, there = (torch.full((len(x),), level, dtype=torch.float64, device=x.device) for level in (t, s))
            x = euler_step(denoise, x, here, there, label)
        return x
