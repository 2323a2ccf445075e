"""One step of a solver of the probability-flow ODE dx/dsigma = (x - D(x, sigma))/sigma (arXiv 2206.00364, eq. 1).

Below, d = (x - D)/sigma is the slope, the noise that a diffusion model predicts, and a step goes from level t to s.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from diffusion.denoisers import Denoise
from diffusion.noise import expand, posterior_std


class Step(Protocol):
    """One step from level t (B,) to level s (B,): `euler_step`, `heun_step`, `midpoint_step`, `third_order_step`."""

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


def midpoint_step(denoise: Denoise, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
    """By the slope at the middle of ln sigma, from t (B,) to s (B,), all s > 0: two evaluations, order 2.

    m = sqrt(t s),  x_m = x + (m - t) d(x, t),  x_s = x + (s - t) d(x_m, m):
    DPM-Solver-2 with r_1 = 1/2 (Lu et al. 2022, arXiv 2206.00927, algorithm 1), whose h = ln(t/s).
    """
    middle = (t * s).sqrt()
    return x + expand(s - t, x) * slope(denoise, euler_step(denoise, x, t, middle, label), middle, label)


def third_order_step(denoise: Denoise, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
    """From level t (B,) to level s (B,), all s > 0: three evaluations, order 3.

    DPM-Solver-3 with r_1 = 1/3, r_2 = 2/3 (Lu et al. 2022, arXiv 2206.00927, algorithm 2). With h = ln(t/s), the
    levels p = t e^(-h/3), q = t e^(-2h/3), and I(q, r) = (t - q)/r - q the integral of the linear correction:

        x_p = x + (p - t) d,   x_q = x + (q - t) d - 2 I(q, 2h/3) (d_p - d)
        x_s = x + (s - t) d - 3/2 I(s, h) (d_q - d)
    """
    h = (t / s).log()
    p, q = t * (-h / 3).exp(), t * (-2 * h / 3).exp()
    d = slope(denoise, x, t, label)
    d_p = slope(denoise, x + expand(p - t, x) * d, p, label)
    inner = (t - q) / (2 * h / 3) - q
    d_q = slope(denoise, x + expand(q - t, x) * d - expand(2 * inner, x) * (d_p - d), q, label)
    outer = (t - s) / h - s
    return x + expand(s - t, x) * d - expand(1.5 * outer, x) * (d_q - d)


def ancestral_step(
    denoise: Denoise,
    x: Tensor,
    t: Tensor,
    s: Tensor,
    noise: Callable[[], Tensor],
    eta: float,
    label: Tensor | None = None,
) -> Tensor:
    """Down past s (B,) along the ODE and up to s again by fresh noise: one evaluation.

    x_s = D + sqrt(s^2 - a^2) d + a z,   a = eta s sqrt(t^2 - s^2)/t,   z = noise():
    DDIM's family (Song et al. 2021, arXiv 2010.02502, eq. 12 and 16), x being theirs divided by sqrt(alpha_bar). With
    eta = 1 it is the posterior q(x_s | x_t, x0 = D) of DDPM, with eta = 0, which takes no noise, Euler's step.
    """
    added = eta * posterior_std(t, s)
    x = euler_step(denoise, x, t, ((s - added) * (s + added)).sqrt(), label)
    return x + expand(added, x) * noise() if eta > 0 else x


def second_order_multistep(x: Tensor, x0: Tensor, x0_before: Tensor, before: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """From level t (B,) to s (B,), x0 = D(x, t) and x0_before being the estimates at t and at the level before, (B,).

    x_s = s/t x + (1 - s/t) (D + h/(2 h') (D - D')),   h = ln(t/s),   h' = ln(before/t):
    DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2), order 2.
    """
    ahead = expand((t / s).log() / (2 * (before / t).log()), x)
    return torch.lerp(x0 + ahead * (x0 - x0_before), x, expand(s / t, x))


def multistep_coefficients(
    levels: Tensor, s: Tensor, variable: Callable[[Tensor], Tensor], nodes: int = 32
) -> list[Tensor]:
    """The weights (B,) of the slopes d_j at `levels`, in a step from levels[0] to s: x_s = x + sum_j c_j d_j.

    c_j = int_(levels[0])^s L_j(v(sigma)) dsigma, L_j being Lagrange's polynomials through the v(levels): the slope is
    extrapolated by the polynomial in v through its known values (Zhang & Chen 2023, arXiv 2204.13902, sec. 3). By
    Gauss' quadrature in ln sigma, exact to rounding.

    Args:
        levels: the present level and those before it, (k, B), > 0.
        s: the next level (B,), > 0.
        variable: v, e.g. a `diffusion.grids.Scale`.
        nodes: of the quadrature.
    """
    points, weights = (torch.from_numpy(a).to(s)[:, None] for a in np.polynomial.legendre.leggauss(nodes))
    start, end = levels[0].log(), s.log()
    sigma = ((start + end) / 2 + points * (end - start) / 2).exp()  # (nodes, B)
    measure = weights * sigma * (end - start) / 2
    v, known = variable(sigma), [variable(level) for level in levels]
    coefficients = []
    for j, own in enumerate(known):
        others = [(v - other) / (own - other) for k, other in enumerate(known) if k != j]
        coefficients.append((measure * torch.stack([torch.ones_like(v), *others]).prod(0)).sum(0))
    return coefficients


@torch.no_grad()
def solve(step: Step, denoise: Denoise, x: Tensor, path: Tensor, label: Tensor | None = None) -> Tensor:
    """From x (B, ...) at the levels path[0] to path[-1], a step for each interval of path (k + 1, B); no gradient."""
    for t, s in pairwise(path):
        x = step(denoise, x, t, s, label)
    return x
