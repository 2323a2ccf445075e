"""Batches of a data set that lies in memory as uint8: what a step of training sees is a pure function of its position.

Image k of a run, counted over all epochs, is `permutation(epoch)[k mod n]` with epoch = k div n. So a run resumed after
any number of images goes on exactly, with nothing stored, and ranks cut the global batch between them.
"""

import zlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor | None]


def to_float(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) -> float32 in [-1, 1], value / 127.5 - 1 (EDM's convention)."""
    return images.to(torch.float32) / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Float images in [-1, 1] -> uint8, (127.5 x + 128) cut to [0, 255] and rounded down: the inverse of `to_float`."""
    return (images * 127.5 + 128).clip(0, 255).to(torch.uint8)


def generator(seed: int, stream: str, position: int) -> np.random.Generator:
    """Random numbers that depend on (seed, stream, position) alone."""
    return np.random.default_rng([seed, zlib.crc32(stream.encode()), position])


class TrainingBatches:
    """Endless training batches (x0 float32 (B/world_size, C, H, W), label (B/world_size,) or None).

    Args:
        images: uint8 (N, C, H, W), or float32 already in data units; on the device that trains.
        labels: int64 (N,) on the same device, or None.
        batch_size: of the global batch, a multiple of `world_size`.
        seed: of the order and the flips.
        start: images seen before the first batch.
        rank, world_size: this process's slice of every batch.
        flip: mirror each image with probability 1/2.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | None,
        batch_size: int,
        seed: int = 0,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        flip: bool = False,
    ):
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(
                f"batch_size={batch_size}: the global batch must be a multiple of the {world_size} processes"
            )
        if len(images) == 0:
            raise ValueError("the data set is empty")
        self.images, self.labels = images, labels
        self.batch_size, self.seed, self.start = batch_size, seed, start
        self.rank, self.world_size, self.flip = rank, world_size, flip

    def __iter__(self) -> Iterator[Batch]:
        n, share = len(self.images), self.batch_size // self.world_size
        k, epoch, order = self.start + self.rank * share, -1, np.empty(0, dtype=np.int64)
        while True:
            positions = np.arange(k, k + share)
            index = np.empty(share, dtype=np.int64)
            for e in range(positions[0] // n, positions[-1] // n + 1):
                if e != epoch:
                    epoch, order = e, generator(self.seed, "order", e).permutation(n)
                here = positions // n == e
                index[here] = order[positions[here] % n]
            yield self._take(index, k)
            k += self.batch_size

    def _take(self, index: np.ndarray, k: int) -> Batch:
        device = self.images.device
        chosen = self._on_device(torch.from_numpy(index), device)
        x0 = self.images[chosen]
        x0 = to_float(x0) if x0.dtype == torch.uint8 else x0
        if self.flip:
            coins = generator(self.seed, "flip", k - self.rank * len(index)).random(self.batch_size) < 0.5
            mine = torch.from_numpy(coins[self.rank * len(index) :][: len(index)])
            x0 = torch.where(self._on_device(mine, device)[:, None, None, None], x0.flip(3), x0)
        return x0, None if self.labels is None else self.labels[chosen]

    @staticmethod
    def _on_device(values: Tensor, device: torch.device) -> Tensor:
        """Copy without making the host wait."""
        return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values


class EvaluationBatches:
    """One pass over images rank, rank + world_size, ...: nothing is padded, nothing is seen twice.

    Args and batches as `TrainingBatches`; batch_size is per process.
    """

    def __init__(self, images: Tensor, labels: Tensor | None, batch_size: int, rank: int = 0, world_size: int = 1):
        self.images, self.labels = images[rank::world_size], None if labels is None else labels[rank::world_size]
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for i in range(0, len(self.images), self.batch_size):
            part = slice(i, i + self.batch_size)
            x0 = self.images[part]
            x0 = to_float(x0) if x0.dtype == torch.uint8 else x0
            yield x0, None if self.labels is None else self.labels[part]
