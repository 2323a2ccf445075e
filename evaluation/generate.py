"""Seeded generation: uint8 images that depend on their seeds alone, with a count of network evaluations and a clock."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.levels import draw_index
from diffusion.pixels import to_uint8
from diffusion.rng import ImageNoise, derive_seed
from evaluation.gather import gather_strided, strided

Sample = Callable[[ImageNoise, int, Tensor | None], Tensor]
"""A method's `sample(noise, steps, label) -> x0`."""


class Meter:
    """Counts a network's evaluations and the time per image while batches are made.

    Evaluations are counted by a hook on the network, sample by sample; nothing is computed from the number of steps.

    Args:
        network: the module whose calls count, each for the length of its first argument.
    """

    def __init__(self, network: nn.Module):
        self.network = network
        self.evaluated = self.images = 0
        self.seconds: list[float] = []

    def _count(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        self.evaluated += len(output)

    @contextmanager
    def batch(self, images: int, device: torch.device | str = "cpu") -> Iterator[None]:
        """Measure the making of a batch of `images` inside the block."""
        handle = self.network.register_forward_hook(self._count, with_kwargs=True)
        try:
            self._wait(device)
            start = time.perf_counter()
            yield
            self._wait(device)
            self.seconds.append((time.perf_counter() - start) / images)
        finally:
            handle.remove()
        self.images += images

    @staticmethod
    def _wait(device: torch.device | str) -> None:
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)

    @property
    def nfe(self) -> float:
        """Network evaluations per image."""
        return self.evaluated / self.images

    @property
    def seconds_per_image(self) -> float:
        """Median over the batches, on one process."""
        return statistics.median(self.seconds)


def draw_labels(seeds: Sequence[int], class_counts: Tensor) -> Tensor:
    """A label (N,) for each seed, distributed as the data's: a function of the seed alone.

    Args:
        seeds: one per image.
        class_counts: images of each class in the data (K,).
    """
    u = torch.tensor([derive_seed(seed, "label") / 2**63 for seed in seeds], dtype=torch.float64)
    return draw_index(u, class_counts.cpu())


@torch.inference_mode()
def generate(
    sample: Sample,
    seeds: Sequence[int],
    image_shape: tuple[int, int, int],
    *,
    steps: int = 1,
    label: Tensor | None = None,
    batch_size: int = 500,
    device: torch.device | str = "cpu",
    meter: Meter | None = None,
) -> Tensor:
    """Generate one uint8 image per seed, the work divided among the processes, all of which get the whole.

    Every forward pass has the same batch size (a short batch is filled with copies of its last seed), so that an
    image depends neither on the other seeds nor on the number of processes, to the last bit.

    Args:
        sample: a method's `sample`.
        seeds: one per image, each >= 0.
        image_shape: (C, H, W).
        steps: network evaluations asked for.
        label: (N,) classes, or None for an unconditional model.
        batch_size: images per forward pass.
        device: where the model is.
        meter: counts and times, after one warm-up batch that does not count.

    Returns:
        (N, C, H, W) uint8 on the CPU, in the order of the seeds.
    """
    if len(seeds) == 0 or batch_size < 1:
        raise ValueError(f"{len(seeds)} seeds, batch_size={batch_size}: both must be at least 1")
    if label is not None and len(label) != len(seeds):
        raise ValueError(f"{len(label)} labels for {len(seeds)} seeds")
    batch_size = min(batch_size, len(seeds))

    def make(rows: Tensor) -> Tensor:
        rows = torch.cat([rows, rows[-1:].expand(batch_size - len(rows))])
        noise = ImageNoise([seeds[i] for i in rows.tolist()], image_shape, device)
        return sample(noise, steps, None if label is None else label[rows.to(label.device)].to(device))

    mine = strided(torch.arange(len(seeds)))
    if meter is not None:
        make(mine[:batch_size])
    images = []
    for rows in mine.split(batch_size):
        if meter is None:
            x0 = make(rows)
        else:
            with meter.batch(batch_size, device):
                x0 = make(rows)
        images.append(to_uint8(x0[: len(rows)]))
    return gather_strided(torch.cat(images), len(seeds)).cpu()
