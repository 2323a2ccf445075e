"""Samplers of a diffusion model (posterior mean) that add fresh noise at every level, down to the last but one.

Churn, the other way to add noise, is EDM's: `diffusion.ode_samplers.Heun`.
"""

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from diffusion.denoisers import Denoise
from diffusion.ode_samplers import Noise, OneEvaluationALevel
from diffusion.solvers import ancestral_step


@dataclass(frozen=True)
class DDIM(OneEvaluationALevel):
    """DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12 and 16): from Euler's method, eta = 0, to DDPM, eta = 1.

    In these coordinates it is what k-diffusion calls Euler's ancestral sampler.

    Args:
        eta: share of the posterior's standard deviation that is added as fresh noise, in [0, 1].
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta={self.eta}: it lies in [0, 1]; 0 is deterministic, 1 is DDPM")

    def descend(self, denoise: Denoise, x: Tensor, levels: Tensor, noise: Noise, steps: int | None) -> Tensor:
        for t, s in pairwise(levels):
            x = ancestral_step(denoise, x, t, s, noise, self.eta)
        return denoise(x, levels[-1])


@dataclass(frozen=True)
class DDPM(OneEvaluationALevel):
    """Ancestral sampling from the posterior (Ho et al. 2020, arXiv 2006.11239, eq. 6 and 7), the smaller variance.

    q(x_s | x_t, x0 = D) = N(D + s^2/t^2 (x_t - D), s^2 (t^2 - s^2)/t^2).
    """

    def descend(self, denoise: Denoise, x: Tensor, levels: Tensor, noise: Noise, steps: int | None) -> Tensor:
        for t, s in pairwise(levels):
            x = ancestral_step(denoise, x, t, s, noise, 1.0)
        return denoise(x, levels[-1])
