"""The forward process x = x0 + sigma * noise and the grids of noise levels."""

import math
from functools import lru_cache

import torch
from torch import Tensor


def expand(sigma: Tensor, x: Tensor) -> Tensor:
    """Give `sigma` (B,) trailing axes of size one, so that it multiplies `x` (B, ...)."""
    return sigma.reshape(-1, *[1] * (x.ndim - 1))


def perturb(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """x_sigma = x0 + sigma * noise (Karras et al. 2022, arXiv 2206.00364, sec. 2)."""
    return x0 + expand(sigma, x0).to(x0.dtype) * noise


def forward_step(x_s: Tensor, noise: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """q(x_t | x_s) = N(x_s, (t^2 - s^2) I): x_s (B, ...) at levels s (B,) noised on to the levels t >= s.

    The variance-preserving q(x_t | x_s) = N(sqrt(1 - beta) x_s, beta I) of the points divided by sqrt(1 + sigma^2),
    where alpha_bar = 1/(1 + sigma^2) and beta = (t^2 - s^2)/(1 + t^2).
    """
    return perturb(x_s, noise, ((t - s) * (t + s)).sqrt())


def posterior_std(t: Tensor, s: Tensor) -> Tensor:
    """Standard deviation s sqrt(t^2 - s^2)/t of q(x_s | x_t, x0), s < t (Ho et al. 2020, arXiv 2006.11239, eq. 7)."""
    return s * ((t - s) * (t + s)).sqrt() / t


def posterior_sample(x0: Tensor, x_t: Tensor, noise: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """q(x_s | x_t, x0) = N(x0 + (s/t)^2 (x_t - x0), s^2 (t^2 - s^2)/t^2 I), levels s < t (B,); x0 itself at s = 0.

    Ho et al. 2020 (arXiv 2006.11239), eq. 6 and 7, in these coordinates; the generators of DDGAN and SIDDM step by it.
    """
    mean = torch.lerp(x0, x_t, expand((s / t) ** 2, x0).to(x0.dtype))
    return perturb(mean, noise, posterior_std(t, s))


def flow_time(sigma: Tensor) -> Tensor:
    """a = sigma/(1 + sigma), the share of noise in a point (1 - a) x0 + a noise of a straight path (2209.03003)."""
    return sigma / (1 + sigma)


def flow_level(a: Tensor) -> Tensor:
    """sigma = a/(1 - a), a in [0, 1): (x0 + sigma noise)/(1 + sigma) is the point (1 - a) x0 + a noise."""
    return a / (1 - a)


def _check_levels(n: int, sigma_min: float, sigma_max: float) -> None:
    if n < 1:
        raise ValueError(f"n={n}: a grid has at least one interval")
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"sigma_min={sigma_min}, sigma_max={sigma_max}: 0 < sigma_min < sigma_max is needed")


def karras_grid(n: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """The increasing grid of n intervals that is uniform in sigma^(1/rho).

    sigma_i = (sigma_min^(1/rho) + i/n (sigma_max^(1/rho) - sigma_min^(1/rho)))^rho, i = 0..n
    (Karras et al. 2022, arXiv 2206.00364, eq. 5; the consistency models' t_i).

    Returns:
        (n + 1,) float64, from sigma_min to sigma_max.
    """
    _check_levels(n, sigma_min, sigma_max)
    if rho <= 0:
        raise ValueError(f"rho={rho}: it must be > 0")
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    grid = (low + torch.arange(n + 1, dtype=torch.float64) / n * (high - low)) ** rho
    grid[0], grid[-1] = sigma_min, sigma_max  # the powers miss the end points by an ulp
    return grid


@lru_cache(maxsize=64)
def karras_grid_on(n: int, sigma_min: float, sigma_max: float, rho: float, device: torch.device) -> Tensor:
    """`karras_grid` on a device, kept there between training steps, which would else wait for the copy.

    Its numbers are not to be changed in place.
    """
    return karras_grid(n, sigma_min, sigma_max, rho).to(device)


def vp_grid(n: int, beta_min: float = 0.1, beta_max: float = 20.0, eps: float = 1e-3) -> Tensor:
    """The levels of the variance-preserving SDE at n + 1 equally spaced times in [eps, 1].

    sigma(t) = sqrt(exp(beta_min t + (beta_max - beta_min) t^2 / 2) - 1)
    (Song et al. 2021, arXiv 2011.13456, eq. 33; in EDM's coordinates arXiv 2206.00364, table 1).

    Returns:
        (n + 1,) float64, increasing.
    """
    _check_levels(n, eps, 1.0)
    t = torch.linspace(eps, 1, n + 1, dtype=torch.float64)
    return torch.expm1(beta_min * t + 0.5 * (beta_max - beta_min) * t**2).sqrt()


def cosine_grid(n: int, eps: float = 0.008, t_min: float = 1e-3, t_max: float = 0.999) -> Tensor:
    """The levels of the cosine schedule at n + 1 equally spaced times in [t_min, t_max].

    abar(t) = cos^2(pi/2 (t + eps)/(1 + eps)) / cos^2(pi/2 eps/(1 + eps)), sigma = sqrt((1 - abar)/abar)
    (Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 17). t_max < 1, since sigma(1) is infinite.

    Returns:
        (n + 1,) float64, increasing.
    """
    if not 0 < t_min < t_max < 1:
        raise ValueError(f"t_min={t_min}, t_max={t_max}: 0 < t_min < t_max < 1 is needed")
    _check_levels(n, t_min, t_max)
    t = torch.linspace(t_min, t_max, n + 1, dtype=torch.float64)
    norm = math.cos(math.pi / 2 * eps / (1 + eps)) ** 2
    alpha_bar = torch.cos(math.pi / 2 * (t + eps) / (1 + eps)) ** 2 / norm
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def flow_grid(n: int, sigma_min: float = 0.0, sigma_max: float = 80.0) -> Tensor:
    """The levels sigma = a/(1 - a) at n + 1 equally spaced a, on which Euler's steps of a straight path are equal.

    Liu et al. 2022 (arXiv 2209.03003). sigma_min may be 0, the end of a path; a = 1, pure noise, is no level: sigma
    would be infinite, and generation starts at a = sigma_max/(1 + sigma_max).

    Returns:
        (n + 1,) float64, increasing, from sigma_min to sigma_max.
    """
    if n < 1:
        raise ValueError(f"n={n}: a grid has at least one interval")
    if not 0 <= sigma_min < sigma_max:
        raise ValueError(f"sigma_min={sigma_min}, sigma_max={sigma_max}: 0 <= sigma_min < sigma_max is needed")
    low, high = flow_time(torch.tensor([sigma_min, sigma_max], dtype=torch.float64))
    grid = flow_level(low + torch.arange(n + 1, dtype=torch.float64) / n * (high - low))
    grid[0], grid[-1] = sigma_min, sigma_max
    return grid
