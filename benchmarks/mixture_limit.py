"""What CT would learn with a perfect network: its bias on a mixture of Gaussians, free of any learning error.

With a squared distance CT's optimum obeys f(x, t) = E[ f(x0 + s/t (x - x0), s) ], x0 drawn from p(x0 | x).
Unrolled, f(x, sigma_max) is the mean end of the random walk that draws a new x0 at every level. CD's is the same with
E[x0 | x] in the place of x0: no walk, but Euler's method for the ODE.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from diffusion.exact import GaussianMixtureDenoise


def descend(gap: Callable[[Tensor, float], Tensor], sigma_min: float, sigma_max: float) -> list[float]:
    """The levels from sigma_max to sigma_min by the gaps t -> s at the end of training."""
    levels = [sigma_max]
    while levels[-1] > sigma_min:
        below = float(gap(torch.tensor([levels[-1]], dtype=torch.float64), 1.0))
        levels.append(max(below, sigma_min))
    return levels


def posterior_sample(mixture: GaussianMixtureDenoise, x: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """x0 ~ p(x0 | x): a mode by its posterior weight, then its Gaussian; x (N, d) float64 -> (N, d)."""
    prior, noise = mixture.std**2, sigma**2
    logits = (x @ mixture.means.T - mixture.means.square().sum(1) / 2) / (prior + noise)
    mode = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    centre = (prior * x + noise * mixture.means[mode]) / (prior + noise)
    spread = math.sqrt(prior * noise / (prior + noise))
    return centre + spread * torch.randn(x.shape, generator=generator, dtype=x.dtype)


def consistency_training_limit(
    mixture: GaussianMixtureDenoise, x: Tensor, levels: list[float], walks: int = 128, seed: int = 0
) -> Tensor:
    """The mean end of `walks` random walks from each x (N, d) at levels[0] down the levels -> (N, d) float64."""
    generator = torch.Generator().manual_seed(seed)
    at = x.double().repeat_interleave(walks, 0)
    for t, s in pairwise(levels):
        x0 = posterior_sample(mixture, at, t, generator)
        at = x0 + s / t * (at - x0)
    return at.reshape(len(x), walks, -1).mean(1)
