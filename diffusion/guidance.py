"""Guidance: a denoiser made of two, pushed away from the less informed one."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.denoisers import Denoise
from diffusion.noise import expand

NO_CLASS = -1
"""The label of an image without a class (`networks.embeddings.LevelEmbedding`)."""


@dataclass(frozen=True)
class Guidance:
    """How strongly, and at which noise levels, a class-conditional model is guided.

    Args:
        weight: w; 0 is the unconditional model, 1 the conditional one, above 1 it is guidance.
        sigma_low, sigma_high: the levels sigma_low < sigma <= sigma_high that are guided; at all others w = 1
            (Kynkaanniemi et al. 2024, arXiv 2404.07724).
    """

    weight: float
    sigma_low: float = 0.0
    sigma_high: float = math.inf

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight={self.weight}: the weight of guidance is a number >= 0; 1 is no guidance")
        if not 0 <= self.sigma_low < self.sigma_high:
            raise ValueError(f"sigma_low={self.sigma_low}, sigma_high={self.sigma_high}: 0 <= low < high is needed")

    def inside(self, sigma: float | Tensor) -> Tensor:
        """Which of the levels (B,) are guided."""
        sigma = torch.as_tensor(sigma)
        return (self.sigma_low < sigma) & (sigma <= self.sigma_high)


@dataclass(frozen=True)
class Guided:
    """D_w(x, sigma, c) = D_0(x, sigma) + w (D(x, sigma, c) - D_0(x, sigma)), a denoiser like any other.

    With D_0 the same network without a class it is classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598,
    eq. 6, whose weight is w - 1); with D_0 another, lesser denoiser, told the class too, autoguidance (Karras et al.
    2024, arXiv 2406.02507).

    Evaluations: one of D and one of D_0 for each call; of D alone where w = 1 and at levels that are not guided; of D_0
    alone where w = 0.

    Args:
        denoise: D.
        guidance: w, and where.
        lesser: D_0 of autoguidance; None for `denoise` with the label -1.
    """

    denoise: Denoise
    guidance: Guidance
    lesser: Denoise | None = None

    def __call__(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """x (B, ...) at the levels `sigma` (number or (B,)), label (B,) -> (B, ...).

        Raises:
            ValueError: there is no label, and no lesser denoiser.
        """
        w, bounded = self.guidance.weight, self.guidance.sigma_low > 0 or self.guidance.sigma_high < math.inf
        inside = self.guidance.inside(sigma) if bounded else None  # read from the device only where it matters
        if w == 1 or (inside is not None and not inside.any()):
            return self.denoise(x, sigma, label)
        if self.lesser is not None:
            base = self.lesser(x, sigma, label)
        elif label is not None:
            base = self.denoise(x, sigma, torch.full_like(label, NO_CLASS))
        else:
            raise ValueError("guidance needs labels: without classes, there is nothing to be guided to")
        everywhere = inside is None or bool(inside.all())
        if w == 0 and everywhere:
            return base
        own = self.denoise(x, sigma, label)
        guided = torch.lerp(base, own, w)
        return guided if inside is None or everywhere else torch.where(expand(inside, x), guided, own)
