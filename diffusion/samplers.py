"""Samplers and inversion: loops over a denoiser. Levels are numbers in data units, in the order they are visited.

Where fresh noise is added, `noise()` gives it, (B, C, H, W) standard normal: a `diffusion.rng.ImageNoise`.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from diffusion.denoisers import Denoise, Transport
from diffusion.grids import CosineGrid, check_ascending, check_descending
from diffusion.noise import cosine_grid


def levels_for(schedules: Sequence[Sequence[float]], steps: int) -> Sequence[float]:
    """The levels, among a model's schedules, that are visited with `steps` evaluations.

    Raises:
        ValueError: there is no such schedule.
    """
    for sigmas in schedules:
        if len(sigmas) == steps:
            return sigmas
    raise ValueError(f"steps={steps}: this model has schedules for {[len(s) for s in schedules]} evaluations")


def multistep(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Callable[[], Tensor],
    label: Tensor | None = None,
    sigma_min: float = 0.002,
) -> Tensor:
    """Denoise, add noise to the next level, denoise again (Song et al. 2023, arXiv 2303.01469, algorithm 1).

    Args:
        denoise: a consistency model.
        x: (B, C, H, W) at level sigmas[0].
        sigmas: descending levels, one evaluation each.
        noise: fresh standard normal noise, called len(sigmas) - 1 times.
        label: (B,) or None.
        sigma_min: the level eps at which the model's outputs lie.
    """
    check_descending(sigmas)
    if sigmas[-1] < sigma_min:
        raise ValueError(f"sigmas={list(sigmas)}: no level may lie below sigma_min={sigma_min}")
    x0 = denoise(x, sigmas[0], label)
    for sigma in sigmas[1:]:
        x0 = denoise(x0 + math.sqrt(sigma**2 - sigma_min**2) * noise(), sigma, label)
    return x0


def ancestral(transport: Transport, x: Tensor, sigmas: Sequence[float], label: Tensor | None = None) -> Tensor:
    """Follow the trajectory down through all of `sigmas` without new noise (BCM, arXiv 2403.18035).

    Evaluations: len(sigmas) - 1. x (B, C, H, W) is at level sigmas[0], the result at sigmas[-1].
    """
    check_descending(sigmas)
    for t, u in pairwise(sigmas):
        x = transport(x, t, label, target=u)
    return x


def zigzag(
    transport: Transport,
    x: Tensor,
    rounds: Sequence[tuple[float, float]],
    noise: Callable[[], Tensor],
    label: Tensor | None = None,
    sigma_min: float = 0.002,
) -> Tensor:
    """Improve clean images: add a little noise, amplify it along the trajectory, denoise (BCM, arXiv 2403.18035).

    For each (small, large) of `rounds`: x += small * noise; x = f(x, small, large); x = f(x, large, sigma_min).
    Two evaluations a round.

    Note: with a perfect model a round equals one denoising of x + small * noise; all else it does is learning error.
    """
    for small, large in rounds:
        check_ascending((small, large))
        x = transport(x + small * noise(), small, label, target=large)
        x = transport(x, large, label, target=sigma_min)
    return x


def mixed(
    transport: Transport,
    x: Tensor,
    sigmas: Sequence[float],
    rounds: Sequence[tuple[float, float]],
    noise: Callable[[], Tensor],
    label: Tensor | None = None,
    sigma_min: float = 0.002,
) -> Tensor:
    """Ancestral down `sigmas`, then zigzag `rounds` (BCM, arXiv 2403.18035): its sampler for 4 evaluations."""
    return zigzag(transport, ancestral(transport, x, sigmas, label), rounds, noise, label, sigma_min)


def add_initial_noise(x0: Tensor, sigma: float, noise: Callable[[], Tensor]) -> Tensor:
    """x0 + sigma noise."""
    return x0 + sigma * noise()


def inversion_start(
    x0: Tensor, sigmas: Sequence[float], noise: Callable[[], Tensor], sigma_min: float
) -> tuple[Tensor, tuple[float, ...]]:
    """x0 + sigmas[0] noise, the point from which an inversion through `sigmas` starts, and the levels it then visits.

    They are `sigmas`, but for a first one below sigma_min (0 adds no noise): the network knows none, so that it is told
    sigma_min.
    """
    return add_initial_noise(x0, sigmas[0], noise), (max(sigmas[0], sigma_min), *sigmas[1:])


def strength_level(strength: float, sigma_min: float, sigma_max: float) -> float:
    """The level a fraction `strength` of the way up from sigma_min to sigma_max in the cosine schedule's time.

    Raises:
        ValueError: the strength is not in (0, 1].
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength={strength}: a strength lies above 0 and is at most 1, which is sigma_max")
    if strength == 1:
        return sigma_max
    scale = CosineGrid()
    low, high = scale(torch.tensor([sigma_min, sigma_max], dtype=torch.float64)).tolist()
    return float(cosine_grid(1, scale.eps, low, low + strength * (high - low))[-1])


def image_to_image(
    denoise: Denoise,
    x0: Tensor,
    sigmas: Sequence[float],
    noise: Callable[[], Tensor],
    label: Tensor | None = None,
    sigma_min: float = 0.002,
) -> Tensor:
    """Noise images to the level sigmas[0] and generate from there by `multistep`.

    SDEdit (Meng et al. 2022, arXiv 2108.01073) with a few-step generator, as UFOGen (arXiv 2311.09257) does it: what
    the noise hides is made anew, what it leaves (the coarse shapes) is kept. One evaluation a level.

    Args:
        denoise: a consistency model, or a generator of samples of x0. A posterior mean would give a blurred image.
        x0: images (B, C, H, W).
        sigmas: descending levels, one evaluation each.
        noise: fresh standard normal noise, called len(sigmas) times.
        label: (B,) or None; another class than the images' own edits them.
        sigma_min: the level eps at which the model's outputs lie, as in `multistep`.
    """
    check_descending(sigmas)
    return multistep(denoise, add_initial_noise(x0, sigmas[0], noise), sigmas, noise, label, sigma_min)


def invert(transport: Transport, x: Tensor, sigmas: Sequence[float], label: Tensor | None = None) -> Tensor:
    """Follow the trajectory up through all of `sigmas`: from (almost) an image to its noise (BCM, arXiv 2403.18035).

    The released code starts at `add_initial_noise(x0, 0.07, noise)` and goes (0.07, 80) or (0.07, 15, 80).
    Evaluations: len(sigmas) - 1. x (B, C, H, W) is at level sigmas[0], the result at sigmas[-1].
    """
    check_ascending(sigmas)
    for t, u in pairwise(sigmas):
        x = transport(x, t, label, target=u)
    return x


def gamma_sampling(
    transport: Transport,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Callable[[], Tensor],
    gamma: float = 0.0,
    label: Tensor | None = None,
    sigma_min: float = 0.002,
) -> Tensor:
    """Jump below the next level, add noise up to it, jump again (CTM's gamma-sampling, arXiv 2310.02279).

        s_i = eps + sqrt(1 - gamma^2) (t_{i+1} - eps)
        x <- G(x, t_i, s_i) + sqrt(t_{i+1}^2 - s_i^2) z          the last jump ends at eps, without noise

    gamma = 0 is `ancestral` down to eps, gamma = 1 is `multistep`. Evaluations: len(sigmas).

    Args:
        transport: a flow map.
        x: (B, C, H, W) at level sigmas[0].
        sigmas: descending levels above sigma_min, one evaluation each.
        noise: fresh standard normal noise, called len(sigmas) - 1 times; not at all for gamma = 0.
        gamma: in [0, 1], the share of a level that is new noise.
        label: (B,) or None.
        sigma_min: the level eps at which trajectories end.

    Note: these are the levels of sony/ctm. The paper has eps = 0: s_i = sqrt(1 - gamma^2) t_{i+1}, noise of standard
    deviation gamma t_{i+1}; both add up to the level t_{i+1} exactly and differ by eps.
    """
    check_descending(sigmas)
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma={gamma}: a share lies in [0, 1]")
    if sigmas[-1] <= sigma_min:
        raise ValueError(f"sigmas={list(sigmas)}: the levels that are left must lie above sigma_min={sigma_min}")
    kept = math.sqrt(1 - gamma**2)
    for t, u in pairwise(sigmas):
        s = kept * u + (1 - kept) * sigma_min  # in this order u itself at gamma = 0, eps itself at gamma = 1
        x = transport(x, t, label, target=s)
        if gamma > 0:
            x = x + math.sqrt(u**2 - s**2) * noise()
    return transport(x, sigmas[-1], label, target=sigma_min)
