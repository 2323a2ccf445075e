"""Samples against data of a known law, beside data against data: the floor that no model is below but by chance."""

from typing import Any

import torch
from torch import Tensor

from diffusion.noise import perturb
from diffusion.rng import ImageNoise, derive_seed
from evaluation.distances import GaussianKernels
from evaluation.generate import Meter, draw_labels
from evaluation.law import Law, in_batches, numbers
from evaluation.resampling import SetDistance, set_distance
from evaluation.scorer import class_counts
from evaluation.truth import is_map


@torch.inference_mode()
def samples(
    module: Any, law: Law, count: int, *, steps: int, seed: int, batch_size: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, float]:
    """What a method generates in `steps` evaluations, unrounded; its classes are as frequent as the data's.

    Args:
        module: the method, on `device`.
        law: of the data.
        count: samples.
        steps: network evaluations asked for.
        seed: of the samples, each of which has a generator of its own.
        batch_size: samples per forward pass.
        device: of the method.

    Returns:
        (count, C, H, W) on the CPU, and network evaluations per sample, counted.

    Raises:
        ValueError: the method's, if it has no sampler for so many steps; or samples are not finite.
    """
    seeds = [derive_seed(seed, "truth/samples", i) for i in range(count)]
    label = None if law.labels is None else draw_labels(seeds, class_counts(law.labels, module.num_classes))

    def make(rows: Tensor, label: Tensor | None) -> Tensor:
        noise = ImageNoise([seeds[i] for i in rows.tolist()], module.image_shape, device)
        return module.sample(noise, steps, label)

    meter = Meter(module.ema_denoiser.network)
    with meter.batch(count, device):
        made = in_batches(make, torch.arange(count), label, batch_size, device)
    return made, meter.nfe


def set_distances(
    module: Any,
    law: Law,
    held_out: Tensor | None,
    count: int,
    directions: Tensor,
    *,
    steps: int = 1,
    resamples: int = 200,
    seed: int = 0,
    batch_size: int = 250,
    device: torch.device | str = "cpu",
) -> list[SetDistance]:
    """Distances of samples from fresh data, of other fresh data (the floor), and the same from held-out images.

    Beside a consistency model stand fresh data with noise of sigma_min, the law of what a perfect one generates.

    Args:
        module: the method, on `device`.
        law: of the data.
        held_out: images (M, C, H, W) that a finite set does not have, or None.
        count: points on either side; against held-out images M, if that is less.
        directions: unit vectors (P, C H W).
        steps: network evaluations of a sample.
        resamples: of the bootstrap.
        seed: of everything random.
        batch_size, device: as in `samples`.
    """
    made, nfe = samples(module, law, count, steps=steps, seed=seed, batch_size=batch_size, device=device)
    first, second = (law.draw(count, numbers(seed, "fresh", i))[0] for i in (0, 1))
    kernel = GaussianKernels.around(first.flatten(1))
    name = f"samples, NFE {nfe:g}"
    pairs = [(name, "fresh", made, first), ("floor: fresh", "fresh", second, first)]
    if is_map(module.ema_denoiser):
        low = module.ema_denoiser.sigma_min
        noise = torch.randn(second.shape, generator=numbers(seed, "sigma_min"))
        pairs.append((f"fresh + {low:g} noise", "fresh", perturb(second, noise, torch.full((count,), low)), first))
    if held_out is not None:
        rest = held_out[torch.randperm(len(held_out), generator=numbers(seed, "held out"))[:count]]
        n = len(rest)
        pairs += [(name, "held out", made[:n], rest), ("floor: fresh", "held out", second[:n], rest)]
    distances = []
    for i, (name, against, a, b) in enumerate(pairs):
        generator = numbers(seed, "bootstrap", i)
        distances.append(
            set_distance(name, against, a, b, directions, kernel, resamples=resamples, generator=generator)
        )
    return distances
