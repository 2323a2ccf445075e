"""One step of a solver of the probability-flow ODE dx/dsigma = (x - D(x, sigma))/sigma (arXiv 2206.00364, eq. 1)."""

from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from diffusion.denoisers import Denoise
from diffusion.noise import expand


class Step(Protocol):
    """One step from level t (B,) to level s (B,): `euler_step`, `heun_step`."""

    def __call__(self, denoise: Denoise, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor: ...


def slope(denoise: Denoise, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
    """dx/dsigma at (x, sigma); x (B, ...), sigma (B,)."""
    return (x - denoise(x, sigma, label)) / expand(sigma, x)


def euler_step(denoise: Denoise, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
    """From level t (B,) to level s (B,): one evaluation, order 1. In these coordinates it is DDIM with eta = 0."""
    return x + expand(s - t, x) * slope(denoise, x, t, label)


def heun_step(denoise: Denoise, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
    """From level t (B,) to level s (B,), all s > 0: two evaluations, order 2 (arXiv 2206.00364, algorithm 1)."""
    d = slope(denoise, x, t, label)
    d_end = slope(denoise, x + expand(s - t, x) * d, s, label)
    return x + expand(s - t, x) * (d + d_end) / 2


@torch.no_grad()
def solve(step: Step, denoise: Denoise, x: Tensor, path: Tensor, label: Tensor | None = None) -> Tensor:
    """From x (B, ...) at the levels path[0] to path[-1], a step for each interval of path (k + 1, B); no gradient."""
    for t, s in pairwise(path):
        x = step(denoise, x, t, s, label)
    return x
