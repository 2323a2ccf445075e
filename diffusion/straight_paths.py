"""Straight paths between images and noise: their velocity, their grid, and how straight a flow is.

    x_a = (1 - a) x0 + a noise,   dx_a/da = v(x_a, a) = E[noise - x0 | x_a],   a from 1 (noise) to 0 (image)

(rectified flow, Liu et al. 2022, arXiv 2209.03003, eq. 1; their time is 1 - a). With sigma = a/(1 - a) the point x_a is
x/(1 + sigma) for x = x0 + sigma noise, and dx_a/da = v is the probability-flow ODE dx/dsigma = (x - D)/sigma.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from diffusion.denoisers import Denoise
from diffusion.grids import Grid
from diffusion.noise import expand, flow_grid
from diffusion.solvers import euler_step


@dataclass(frozen=True)
class FlowGrid(Grid):
    """Levels equally spaced in a, and from the last as far to 0: a_i = (1 - i/n) a_max, i = 0..n - 1.

    a_max = sigma_max/(1 + sigma_max). With it `Euler` takes equal steps along a straight path, since its step in sigma
    is its step in a. The official sampler evaluates at the same a_i, with a_max = 0.999, its 1 - eps.

    Note: from there it takes steps of length 1/n from the noise z itself, the point of a = 1, as if that were the point
    of a_max; here a path starts at a_max z, where its first velocity is known. At sigma_max = 80, a_max is 0.988.
    """

    def levels(self, n: int, sigma_min: float, sigma_max: float) -> list[float]:
        """sigma_min has no part in it: the last step, to 0, is as long as the others."""
        return flow_grid(n, 0.0, sigma_max)[1:].flip(0).tolist()


def velocity(denoise: Denoise, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
    """v = (x - (1 + sigma) D(x, sigma))/sigma, the estimate of noise - x0 at x = x0 + sigma noise (B, ...)."""
    return (x - expand(1 + sigma, x) * denoise(x, sigma, label)) / expand(sigma, x)


@torch.no_grad()
def straightness(
    denoise: Denoise,
    noise: Callable[[], Tensor],
    steps: int = 100,
    label: Tensor | None = None,
    sigma_max: float = 80.0,
) -> Tensor:
    """S = int E||(z - x0) - v(x_a, a)||^2 da along the flow from noise z to image x0 (arXiv 2209.03003, sec. 2.2).

    It is 0 where every path is a straight line at constant velocity, and one Euler step is then exact. By Euler's
    method in `steps` equal steps of a, of which the displacement z - x0 is the mean velocity.

    Args:
        denoise: a diffusion model or a rectified flow.
        noise: standard normal noise (B, ...), e.g. an `ImageNoise`; called once.
        steps: network evaluations, >= 1.
        label: (B,) or None.
        sigma_max: the level at which paths start.

    Returns:
        (B,), the mean over the elements of an image standing for the norm.
    """
    sigmas = FlowGrid().levels(steps, 0.0, sigma_max)
    x, velocities = sigmas[0] * noise(), []
    for t, s in pairwise([*sigmas, 0.0]):
        here, there = (torch.full((len(x),), level, dtype=x.dtype, device=x.device) for level in (t, s))
        velocities.append(velocity(denoise, x, here, label))
        x = euler_step(denoise, x, here, there, label)
    return torch.stack(velocities).var(0, correction=0).flatten(1).mean(1)
