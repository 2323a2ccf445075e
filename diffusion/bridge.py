"""Bridges between a clean image and a damaged one: I2SB (Liu et al. 2023, arXiv 2302.05872).

    x = x0 + (sigma/T)^2 (x1 - x0) + sigma sqrt(1 - (sigma/T)^2) z,    0 <= sigma <= T

is I2SB's q(x | x0, x1) (eq. 11): sigma^2 is the variance of its diffusion from x0 on, T^2 - sigma^2 that of the rest,
on to x1. It is x0 at sigma = 0 and x1 at T, a Brownian bridge in the time sigma^2. Given x and x0 a point below does
not depend on x1, and its law is that of a diffusion model, `diffusion.noise.posterior_sample` (eq. 4): so I2SB's
sampler is DDPM's, started at x1 in the place of noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from diffusion.denoisers import Denoise
from diffusion.grids import check_descending
from diffusion.noise import expand, posterior_sample


@dataclass(frozen=True)
class BridgeSchedule:
    """The levels sigma_0 < ... < sigma_(n-1) = T of a bridge in n steps of variance beta_i: sigma_i^2 is their sum.

    sqrt(beta_i) grows by equal amounts up to the middle and falls as it grew; it would reach sqrt(beta_max/n) at the
    end if it did not turn back (NVlabs/I2SB).

    Note: the released code gives the rest of the way the variance T^2 - sigma_(i-1)^2, which counts beta_i twice; with
    n = 1000 its weights of x0 and x1 differ from those above by less than 1e-3.

    Args:
        n: steps, even.
        beta_start: variance of the first step, > 0; 1e-4 in the released code.
        beta_max: n times the variance that a step would reach, >= n beta_start; in units of [-1, 1] images. The
            released code has 0.3 for super-resolution and JPEG (T = 0.376), and 1 for inpainting and blur (T = 0.497).
    """

    n: int = 1000
    beta_start: float = 1e-4
    beta_max: float = 0.3

    def __post_init__(self) -> None:
        if self.n < 2 or self.n % 2:
            raise ValueError(f"n={self.n}: an even number of steps is needed")
        if not 0 < self.beta_start <= self.beta_max / self.n:
            raise ValueError(
                f"beta_start={self.beta_start}: it lies in (0, beta_max/n], here {self.beta_max / self.n:g}"
            )

    @property
    def sigma_min(self) -> float:
        """sigma_0, the level at which the released code ends."""
        return self.levels_on(torch.device("cpu"))[0].item()

    @property
    def sigma_max(self) -> float:
        """T, the level of the damaged image."""
        return self.levels_on(torch.device("cpu"))[-1].item()

    def levels_on(self, device: torch.device) -> Tensor:
        """All levels (n,), increasing, float64, kept on the device between training steps."""
        return _levels(self, device)

    def draw(self, u: Tensor) -> Tensor:
        """Uniform numbers (B,) in [0, 1) -> levels (B,), each of the n as likely, as in the released code."""
        return self.levels_on(u.device)[(u.double() * self.n).long().clamp(max=self.n - 1)]

    def levels(self, steps: int) -> list[float]:
        """The steps + 1 descending levels, equally spaced in i, between which `steps` >= 1 evaluations go.

        Raises:
            ValueError: there are not so many.
        """
        if not 1 <= steps < self.n:
            raise ValueError(
                f"steps={steps}: 1 to {self.n - 1} evaluations are possible on a bridge of {self.n} levels"
            )
        places = [round(i * (self.n - 1) / steps) for i in range(steps, -1, -1)]
        return self.levels_on(torch.device("cpu"))[places].tolist()


@lru_cache(maxsize=16)
def _levels(schedule: BridgeSchedule, device: torch.device) -> Tensor:
    end = schedule.beta_max / schedule.n
    roots = torch.linspace(schedule.beta_start**0.5, end**0.5, schedule.n, dtype=torch.float64)
    half = roots[: schedule.n // 2].square()
    return torch.cat([half, half.flip(0)]).cumsum(0).sqrt().to(device)


def bridge_point(x0: Tensor, x1: Tensor, noise: Tensor, sigma: Tensor, total: float | Tensor) -> Tensor:
    """x of q(x | x0, x1) at the levels sigma (B,), 0 <= sigma <= total = T (arXiv 2302.05872, eq. 11).

    Without noise (0) it is the straight path of I2SB's "OT-ODE".

    Args:
        x0, x1: the ends (B, ...).
        noise: standard normal, like x0.
        sigma: (B,).
        total: T, a number or (B,).
    """
    share = (sigma / total) ** 2
    spread = sigma * (1 - share).clamp(min=0).sqrt()
    return torch.lerp(x0, x1, expand(share, x0).to(x0.dtype)) + expand(spread, x0).to(x0.dtype) * noise


def follow_bridge(
    denoise: Denoise,
    x1: Tensor,
    sigmas: Sequence[float],
    noise: Callable[[], Tensor] | None,
    label: Tensor | None = None,
) -> Tensor:
    """From x1 at the level sigmas[0] = T down to sigmas[-1], where the mean is taken (arXiv 2302.05872, eq. 4).

        x <- x0 + (s/t)^2 (x - x0) + s sqrt(t^2 - s^2)/t z,    x0 = D(x, t), an evaluation;  z = 0 at the last level

    Note: with infinitely many levels and the exact D(x, t, x1) = E[x0 | x, x1] the results are distributed as x0 given
    x1. A D that is not told x1 keeps the law of every x, but not of x0 *given* x1 (De Bortoli et al. 2023, arXiv
    2311.06978), unless x1 can be read off x. The figures of a Gaussian prior are in `lightning_modules/i2sb.py`.

    Args:
        denoise: an estimate of E[x0 | x] on the bridge.
        x1: the damaged images (B, ...).
        sigmas: descending levels > 0; evaluations: len(sigmas) - 1.
        noise: fresh standard normal noise, called len(sigmas) - 2 times; None for the "OT-ODE", z = 0 throughout.
        label: (B,) or None.
    """
    check_descending(sigmas)
    levels = torch.tensor(sigmas, dtype=torch.float64, device=x1.device)[:, None].expand(-1, len(x1))
    x, last = x1, len(sigmas) - 2
    for i, (t, s) in enumerate(pairwise(levels)):
        x0 = denoise(x, t, label)
        z = torch.zeros_like(x) if noise is None or i == last else noise()
        x = posterior_sample(x0, x, z, t.to(x.dtype), s.to(x.dtype))
    return x
