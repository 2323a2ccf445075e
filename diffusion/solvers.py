"""One step of a solver of the probability-flow ODE dx/dsigma = (x - D(x, sigma))/sigma (arXiv 2206.00364, eq. 1)."""

from torch import Tensor

from diffusion.denoisers import Denoise
from diffusion.noise import expand


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
