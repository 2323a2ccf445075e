"""How far a model is from the exact probability-flow ODE of its data, point by point.

Errors are root mean squares over points and elements, in data units (of inverted noise: over its level). Beside each
stand what halving the solver's steps changes and the error of the best constant.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffusion.denoisers import ConsistencyDenoiser, FlowMapDenoiser, GeneratorDenoiser, Transport
from diffusion.rng import ImageNoise, derive_seed
from diffusion.samplers import add_initial_noise, invert
from evaluation.distances import sliced_wasserstein
from evaluation.generate import Meter
from evaluation.law import Law, Learned, at_level, in_batches, numbers


@dataclass(frozen=True)
class LevelError:
    """Of a model's answers at one noise level."""

    sigma: float
    points: int
    error: float
    solver: float
    """Distance of the exact answers from those solved with half as many steps, 16 times their own error or less where
    the method converges with its order; 0 where the answer is a formula."""
    constant: float
    """Spread of the exact answers around their mean: the error of the best model that does not look at x."""


@dataclass(frozen=True)
class InversionTruth:
    """Data x0 + s noise, s the first level, taken to their noise at the last level and back in one evaluation."""

    levels: tuple[float, ...]
    points: int
    nfe: float
    """Network evaluations per point from data to noise, counted."""
    error: float
    """Of the noise against the exact inverse's, over the last level."""
    solver: float
    """Distance of the exact inverse from that with half as many steps, over the last level."""
    round_trip: float
    """Of the regenerated data against x0."""
    control: float
    """Of the model's denoising of x0 + s noise in one evaluation, never inverted, against x0."""
    exact: float
    """Of the exact map from x0 + s noise to sigma_min: what a perfect model's round trip loses."""


@dataclass(frozen=True)
class Gaussianity:
    """Of points (N, C, H, W) over the level T of their noise: for N(0, T^2) all is 0 but std, up to chance."""

    name: str
    points: int
    mean: float
    """Root mean square over the elements of the mean of each."""
    std: float
    """Root mean square over the elements of the standard deviation of each."""
    skewness: float
    """Root mean square over the elements of the skewness of each."""
    kurtosis: float
    """Mean over the elements of the excess kurtosis of each."""
    sliced_wasserstein: float
    """Distance from as many standard normal draws."""


def rms(x: Tensor) -> float:
    """Root mean square of all elements."""
    return float(x.double().square().mean().sqrt())


def level_error(sigma: float, learned: Tensor, exact: Tensor, coarse: Tensor | None = None) -> LevelError:
    """Compare answers (N, C, H, W) with the exact ones, and these with coarser ones."""
    solver = 0.0 if coarse is None else rms(exact - coarse)
    return LevelError(sigma, len(exact), rms(learned.double() - exact), solver, rms(exact - exact.mean(0)))


def log_spaced(count: int, sigma_min: float, sigma_max: float) -> list[float]:
    """`count` levels of equal ratios that end at sigma_max; sigma_min, where they would begin, is left out."""
    if count < 1:
        raise ValueError(f"count={count}: at least one level is needed")
    return [sigma_min * (sigma_max / sigma_min) ** (i / count) for i in range(1, count + 1)]


def is_map(denoise: Any) -> bool:
    """Whether a denoiser gives the end of the trajectory, at sigma_min: a consistency model of any kind."""
    return isinstance(denoise, ConsistencyDenoiser | FlowMapDenoiser)


def posterior_mean_of(module: Any) -> Learned | None:
    """What in a method estimates E[x0 | x]; None if nothing does.

    A method that is solved by a `Sampler` learned it, unless the noise of its training (`source`) was chosen with the
    data, as in reflow; a trajectory model (CTM) holds one beside its map.
    """
    denoise = module.ema_denoiser
    if hasattr(denoise, "posterior_mean"):
        return denoise.posterior_mean
    if is_map(denoise) or not hasattr(module, "sampler") or getattr(module, "source", None) is not None:
        return None
    return denoise


def generates_along_the_ode(module: Any) -> bool:
    """Whether a method's own `sample` in one evaluation aims at the end of the trajectory from sigma_max noise.

    Those distilled for that level alone: KD, PD, reflow. A generator of a GAN has no trajectory to follow, and what
    restores has no samples.
    """
    denoise = module.ema_denoiser
    aims = not isinstance(denoise, GeneratorDenoiser) and not is_map(denoise) and posterior_mean_of(module) is None
    return aims and not hasattr(module, "restore")


@torch.inference_mode()
def map_errors(
    denoise: Any,
    law: Law,
    levels: Sequence[float],
    points: int,
    *,
    seed: int = 0,
    batch_size: int = 250,
    device: torch.device | str = "cpu",
) -> list[LevelError]:
    """Of a consistency model f(x, t) against the exact map to its sigma_min, at x = x0 + t noise.

    Args:
        denoise: on `device`, with `sigma_min`.
        law: of the data.
        levels: t, >= sigma_min.
        points: at each level.
        seed: of the points; they do not depend on the number of levels before.
        batch_size: points per forward pass.
        device: where the denoiser is.
    """
    rows, eps = [], denoise.sigma_min
    for i, t in enumerate(levels):
        x, label = law.draw_at(t, points, numbers(seed, "points", i))
        learned = in_batches(at_level(denoise, t), x, label, batch_size, device)
        exact, coarse = (law.follow(x, t, eps, label, coarse) for coarse in (False, True))
        rows.append(level_error(t, learned, exact, coarse))
    return rows


@torch.inference_mode()
def mean_errors(
    denoise: Learned,
    law: Law,
    levels: Sequence[float],
    points: int,
    *,
    seed: int = 0,
    batch_size: int = 250,
    device: torch.device | str = "cpu",
) -> list[LevelError]:
    """Of a diffusion model D(x, t) against the exact posterior mean E[x0 | x], at x = x0 + t noise; as `map_errors`."""
    rows = []
    for i, t in enumerate(levels):
        x, label = law.draw_at(t, points, numbers(seed, "points", i))
        learned = in_batches(at_level(denoise, t), x, label, batch_size, device)
        rows.append(level_error(t, learned, law.mean(x, t, label)))
    return rows


@torch.inference_mode()
def generation_error(
    module: Any,
    law: Law,
    points: int,
    *,
    steps: int = 1,
    seed: int = 0,
    batch_size: int = 250,
    device: torch.device | str = "cpu",
) -> LevelError:
    """Of a method's `sample` in `steps` evaluations against the exact map of the same noise x = sigma_max z.

    `sample` must start at sigma_max times the first draw of the noise that it is given, and draw no more.
    """
    top, bottom = module.ema_denoiser.sigma_max, module.ema_denoiser.sigma_min
    seeds = [derive_seed(seed, "truth/generation", i) for i in range(points)]
    z, label = ImageNoise(seeds, module.image_shape)(), law.draw(points, numbers(seed, "points"))[1]
    learned = in_batches(lambda z, k: module.sample(lambda: z, steps, k), z, label, batch_size, device)
    exact, coarse = (law.follow(top * z, top, bottom, label, coarse) for coarse in (False, True))
    return level_error(top, learned, exact, coarse)


@torch.inference_mode()
def inversion_truth(
    denoise: Any,
    law: Law,
    inversions: Sequence[Sequence[float]],
    points: int,
    directions: Tensor,
    *,
    seed: int = 0,
    batch_size: int = 250,
    device: torch.device | str = "cpu",
) -> tuple[list[InversionTruth], list[Gaussianity]]:
    """Invert data by a bidirectional denoiser and by the exact ODE from the same points, one row for each way.

    Args:
        denoise: on `device`.
        law: of the data.
        inversions: levels visited, ascending.
        points: that are inverted.
        directions: unit vectors (P, C H W) on which the noise is projected.
        seed, batch_size, device: as in `map_errors`.

    Returns:
        The errors; and how Gaussian the noise of each way is, of the exact inverse, and of normal draws.
    """
    rows: list[InversionTruth] = []
    shapes: list[Gaussianity] = []
    done: dict[tuple[float, float], list[Tensor]] = {}
    draws = [torch.randn(points, directions.shape[1], generator=numbers(seed, "normal", i)).double() for i in (0, 1)]
    for levels in inversions:
        low, high = levels[0], levels[-1]
        generator = numbers(seed, "inversion")
        x0, label = law.draw(points, generator)
        start = add_initial_noise(x0, low, partial(torch.randn, x0.shape, generator=generator))
        if (low, high) not in done:
            done[low, high] = [law.follow(start, low, high, label, coarse) for coarse in (False, True)]
        exact, coarse = done[low, high]
        meter = Meter(denoise.network)
        with meter.batch(points, device):
            noise = in_batches(partial(_inverted, denoise, levels), start, label, batch_size, device)
        back = in_batches(at_level(denoise, high), noise, label, batch_size, device)
        control = in_batches(at_level(denoise, low), start, label, batch_size, device)
        perfect = law.follow(start, low, denoise.sigma_min, label)
        rows.append(
            InversionTruth(
                levels=tuple(levels),
                points=points,
                nfe=meter.nfe,
                error=rms(noise - exact) / high,
                solver=rms(exact - coarse) / high,
                round_trip=rms(back - x0),
                control=rms(control - x0),
                exact=rms(perfect - x0),
            )
        )
        path = " > ".join(f"{level:g}" for level in levels)
        shapes.append(gaussianity(path, noise / high, draws[0], directions))
    for (low, high), (exact, _) in done.items():
        shapes.append(gaussianity(f"exact, {low:g} > {high:g}", exact / high, draws[0], directions))
    shapes.append(gaussianity("normal draws", draws[1], draws[0], directions))
    return rows, shapes


def _inverted(transport: Transport, levels: Sequence[float], x: Tensor, label: Tensor | None) -> Tensor:
    return invert(transport, x, levels, label)


def gaussianity(name: str, noise: Tensor, normal: Tensor, directions: Tensor) -> Gaussianity:
    """Moments of noise over its level, (N, ...), and its distance from standard normal draws (N, d)."""
    x = noise.double().flatten(1)
    centred = x - x.mean(0)
    variance = centred.square().mean(0)
    return Gaussianity(
        name=name,
        points=len(x),
        mean=rms(x.mean(0)),
        std=float(variance.mean().sqrt()),
        skewness=rms(centred.pow(3).mean(0) / variance**1.5),
        kurtosis=float((centred.pow(4).mean(0) / variance**2 - 3).mean()),
        sliced_wasserstein=sliced_wasserstein(x, normal, directions),
    )
