"""Batches of a data set that lies in memory: what a step of training sees is a pure function of its position.

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
    return images.to(torch.float32).div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Float images in [-1, 1] -> uint8, (127.5 x + 128) cut to [0, 255] and rounded down: the inverse of `to_float`."""
    return (images * 127.5 + 128).clip(0, 255).to(torch.uint8)


def generator(seed: int, stream: str, position: int = 0) -> np.random.Generator:
    """Random numbers that depend on (seed, stream, position) alone."""
    return np.random.default_rng([seed, zlib.crc32(stream.encode()), position])


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy to the device, without making the host wait for a GPU."""
    if values.device.type == "cpu" and device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


class TrainingBatches:
    """Endless training batches (x0 float32 (B/world_size, C, H, W), label (B/world_size,) or None).

    Args:
        images: uint8 (N, C, H, W), or float32 already in data units; on the device that trains, or on the host, which
            then gathers each batch.
        labels: int64 (N,) beside the images, or None.
        batch_size: B, of the global batch; a multiple of `world_size`.
        seed: of the order and the flips, >= 0.
        start: images seen before the first batch.
        rank, world_size: this process's slice of every batch.
        flip: mirror each image with probability 1/2.
        device: where the batches are wanted; by default where the images are.

    Raises:
        ValueError: batch_size is no multiple of world_size, or there are no images.
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
        device: torch.device | None = None,
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
        self.device = images.device if device is None else device
        self._epoch = -1, np.empty(0, np.int64), np.empty(0, np.bool_)

    def __iter__(self) -> Iterator[Batch]:
        share = self.batch_size // self.world_size
        k = self.start + self.rank * share
        while True:
            yield self._take(*self._rows(k, share))
            k += self.batch_size

    def _rows(self, k: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the data set, and whether each is mirrored, for the positions k .. k + count - 1 of the run."""
        rows, mirrored = [], []
        while count > 0:
            epoch, first = divmod(k, len(self.images))
            order, coins = self._order(epoch)
            rows.append(order[first : first + count])
            mirrored.append(coins[first : first + count])
            k, count = k + len(rows[-1]), count - len(rows[-1])
        return np.concatenate(rows), np.concatenate(mirrored)

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The permutation of an epoch, and the coins that flip its images."""
        if self._epoch[0] != epoch:
            n = len(self.images)
            order = generator(self.seed, "order", epoch).permutation(n)
            self._epoch = epoch, order, generator(self.seed, "flip", epoch).random(n) < 0.5
        return self._epoch[1:]

    def _take(self, rows: np.ndarray, mirrored: np.ndarray) -> Batch:
        chosen = on_device(torch.from_numpy(rows), self.images.device)
        x0 = on_device(self.images.index_select(0, chosen), self.device)  # on the CPU far faster than []
        if self.flip:  # as uint8, a quarter of the memory to move; `where` with a broadcast mask is slow on the CPU
            pick = on_device(torch.from_numpy(np.arange(len(rows)) + len(rows) * mirrored), self.device)
            x0 = torch.cat([x0, x0.flip(3)]).index_select(0, pick)
        x0 = to_float(x0) if x0.dtype == torch.uint8 else x0
        return x0, None if self.labels is None else on_device(self.labels.index_select(0, chosen), self.device)


class EvaluationBatches:
    """One pass over images rank, rank + world_size, ...: nothing is padded, nothing is seen twice.

    Args and batches as `TrainingBatches`; the processes share batch_size between them, rounded up.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | None,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | None = None,
    ):
        self.images, self.labels = images[rank::world_size], None if labels is None else labels[rank::world_size]
        self.share = -(-batch_size // world_size)
        self.device = images.device if device is None else device

    def __len__(self) -> int:
        return -(-len(self.images) // self.share)

    def __iter__(self) -> Iterator[Batch]:
        for i in range(0, len(self.images), self.share):
            x0 = on_device(self.images[i : i + self.share], self.device)
            label = None if self.labels is None else on_device(self.labels[i : i + self.share], self.device)
            yield to_float(x0) if x0.dtype == torch.uint8 else x0.clone(), label
