"""What is known exactly: the posterior mean of a mixture of Gaussians, and the flow map of any denoiser's ODE.

    p(x0) = 1/K sum_k N(mu_k, s^2 I),   v = s^2 + sigma^2
    E[x0 | x] = (s^2 x + sigma^2 sum_k w_k mu_k)/v,   w = softmax_k(-|x - mu_k|^2/(2 v))

K = 1 is a Gaussian, s = 0 a finite data set.
"""

import math

import torch
from torch import Tensor

from diffusion.denoisers import Denoise


class GaussianMixtureDenoise:
    """The posterior mean under K equally likely isotropic Gaussians: a perfect diffusion model, and a perfect teacher.

    Computed in float64, whatever the precision of x, and returned in the precision of x.

    Args:
        means: mu_k, (K, C, H, W), or (K, d) for points of d = C H W elements.
        std: s of every element, >= 0; 0 for a finite data set, of which sigma must then be > 0.

    Raises:
        ValueError: no means, or a std below 0.
    """

    def __init__(self, means: Tensor, std: float):
        if means.ndim < 2 or means.numel() == 0:
            raise ValueError(f"means of shape {tuple(means.shape)}: (K, C, H, W) or (K, d) with K >= 1 is needed")
        if std < 0:
            raise ValueError(f"std={std}: a standard deviation is at least 0")
        self.means, self.std = means.flatten(1).double(), std

    def __call__(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """x (B, ...) at levels `sigma` (number or (B,)) -> E[x0 | x] (B, ...); the label is not looked at."""
        points, means = x.flatten(1).double(), self.means.to(x.device)
        if points.shape[1] != means.shape[1]:
            raise ValueError(f"x of {points.shape[1]} elements: this mixture's means have {means.shape[1]}")
        noise = torch.as_tensor(sigma, dtype=torch.float64, device=x.device).expand(len(x))[:, None] ** 2
        variance = self.std**2 + noise
        # |x|^2 is the same for all k and left out: at sigma = 80 it would hide the rest
        logits = (points @ means.T - means.square().sum(1) / 2) / variance
        centre = torch.softmax(logits, dim=1) @ means
        return ((self.std**2 * points + noise * centre) / variance).reshape(x.shape).to(x.dtype)


@torch.no_grad()
def flow_map(
    denoise: Denoise, x: Tensor, sigma: float, target: float, steps: int = 512, label: Tensor | None = None
) -> Tensor:
    """The trajectory dx/dln(sigma) = x - D(x, sigma) through x at level `sigma`, followed to the level `target`.

    The classical Runge-Kutta method of order 4 with equal steps of ln(sigma), in float64.

    Args:
        denoise: a denoiser that takes float64.
        x: (B, ...).
        sigma, target: levels > 0, up or down.
        steps: of four evaluations each, >= 1.
        label: (B,) or None.

    Returns:
        (B, ...) float64.
    """
    if min(sigma, target) <= 0:
        raise ValueError(f"sigma={sigma}, target={target}: a trajectory is followed between levels > 0")
    if steps < 1:
        raise ValueError(f"steps={steps}: at least one step is needed")

    def slope(x: Tensor, log_sigma: float) -> Tensor:
        return x - denoise(x, math.exp(log_sigma), label)

    x, start, h = x.double(), math.log(sigma), math.log(target / sigma) / steps
    for i in range(steps):
        at = start + i * h
        k1 = slope(x, at)
        k2 = slope(x + h / 2 * k1, at + h / 2)
        k3 = slope(x + h / 2 * k2, at + h / 2)
        k4 = slope(x + h * k3, at + h)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x
