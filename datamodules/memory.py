"""A datamodule whose splits lie in memory."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from datamodules.loader import EvaluationBatches, TrainingBatches, to_float

Split = tuple[Tensor, Tensor | None]


class InMemoryDataModule(LightningDataModule):
    """Serves the splits that `load_split` of a data set gives, from memory and on the device.

    A data set sets `image_shape`, `num_classes` and `source` when it is constructed, and implements
    `load_split("train" | "test") -> (images uint8 (N, C, H, W), labels int64 (N,) or None)`.

    Args:
        batch_size: of the global batch.
        seed: of the order and the flips.
        flip: mirror training images with probability 1/2.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    source: str
    """Where the data come from, in words."""
    noun: ClassVar[str] = "images"
    class_names: Sequence[str] | None = None
    device_bytes: ClassVar[int] = 2**32
    """A larger split stays on the host, which then gathers each batch and sends it."""

    def __init__(self, batch_size: int, seed: int = 0, flip: bool = False):
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: it must be at least 1")
        if seed < 0:
            raise ValueError(f"seed={seed}: it must be at least 0")
        self.batch_size, self.seed, self.flip = batch_size, seed, flip
        self._splits: dict[str, Split] = {}
        self._placed: dict[tuple[str, torch.device], Split] = {}

    def load_split(self, split: str) -> Split:
        """Read a split from where it lies."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to load its {split} split")

    def split(self, split: str) -> Split:
        """The images and labels of "train" or "test", read once and checked.

        Raises:
            ValueError: there is no such split, or its labels do not suit `num_classes`.
        """
        if split not in ("train", "test"):
            raise ValueError(f"split={split!r}: there are 'train' and 'test'")
        if split not in self._splits:
            images, labels = self.load_split(split)
            if self.num_classes:
                self._check(split, labels)
            self._splits[split] = images, labels
        return self._splits[split]

    def _check(self, split: str, labels: Tensor | None) -> None:
        if labels is None:
            raise ValueError(
                f"num_classes={self.num_classes}: the {split} split of {self.source} has no labels to condition on"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.num_classes:
            raise ValueError(
                f"num_classes={self.num_classes}: the {split} split of {self.source} has labels from {low} to {high}, "
                f"allowed are 0 to {self.num_classes - 1}"
            )

    def uint8_images(self, split: str) -> Split:
        """The images (N, C, H, W) uint8 and labels (N,) int64 or None of "train" or "test", for scoring."""
        return self.split(split)

    def components(self, limit: int) -> tuple[Tensor, Tensor | None, float]:
        """The law of the training data as equally likely isotropic Gaussians, by which its ODE is solved exactly.

        Here a finite set: the images are the means, and the Gaussians have no width.

        Args:
            limit: values (images x elements) above which a finite set is refused.

        Returns:
            means (K, C, H, W) float32 in data units, twice the images where they are mirrored at random; labels (K,)
            int64 or None; the standard deviation of every element.

        Raises:
            ValueError: the set is larger, or the law is none that is known exactly.
        """
        images, labels = self.split("train")
        count = len(images) * (2 if self.flip else 1)
        elements = images[0].numel()
        if count * elements > limit:
            raise ValueError(
                f"{self.source}: {count:,} {self.noun} of {elements:,} values are too many to solve their ODE exactly, "
                f"which looks at all of them at every point of every step: {count * elements:,} values, allowed are "
                f"{limit:,} (fewer trajectories allow more)"
            )
        means = to_float(images) if images.dtype == torch.uint8 else images
        if self.flip:
            means, labels = torch.cat([means, means.flip(3)]), None if labels is None else labels.repeat(2)
        return means, labels, 0.0

    def describe(self) -> str:
        """Count, size, channels and class counts in one line."""
        images, labels = self.split("train")
        test = self.split("test")[0]
        c, h, w = self.image_shape
        held_out = "none held out (the test split is the training split)"
        if test is not images:
            held_out = f"{len(test):,} held out"
        return f"{self.source}: {len(images):,} {self.noun}, {held_out}, {c} x {h} x {w}, {self._classes(labels)}"

    def _classes(self, labels: Tensor | None) -> str:
        if labels is None:
            return "no labels"
        counts = torch.bincount(labels, minlength=self.num_classes).tolist()
        used = "" if self.num_classes else " (labels not given to the model)"
        if len(counts) > 20:
            return f"{len(counts):,} classes of {min(counts):,} to {max(counts):,} images{used}"
        names = self.class_names or [str(c) for c in range(len(counts))]
        return f"images by class {', '.join(f'{name}: {n:,}' for name, n in zip(names, counts, strict=False))}{used}"

    def setup(self, stage: str) -> None:
        """Read the data, and say at the start of a fit what they are."""
        if stage == "fit":
            line = self.describe()  # on every process: each holds the data
            rank_zero_only(print)(f"data:     {line}", flush=True)

    def _place(self, split: str) -> tuple[Tensor, Tensor | None, dict[str, Any]]:
        """The split, on the device that trains unless it is too large, and this process's place among all."""
        images, labels = self.split(split)
        if self.trainer is None:
            return images, labels, {}
        device = self.trainer.strategy.root_device
        place = {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size, "device": device}
        if images.nbytes > self.device_bytes:
            return images, labels, place
        if (split, device) not in self._placed:
            self._placed[split, device] = images.to(device), None if labels is None else labels.to(device)
        return *self._placed[split, device], place

    def train_dataloader(self) -> TrainingBatches:
        images, labels, place = self._place("train")
        start = 0 if self.trainer is None else getattr(self.trainer.lightning_module, "images_seen", 0)
        return TrainingBatches(images, labels, self.batch_size, self.seed, start, flip=self.flip, **place)

    def val_dataloader(self) -> EvaluationBatches:
        images, labels, place = self._place("test")
        return EvaluationBatches(images, labels, self.batch_size, **place)

    test_dataloader = val_dataloader
    predict_dataloader = val_dataloader

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Nothing: the batches are made on the device."""
        return batch
