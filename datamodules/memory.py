"""A datamodule whose splits lie in memory."""

from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from datamodules.loader import EvaluationBatches, TrainingBatches

Split = tuple[Tensor, Tensor | None]


class InMemoryDataModule(LightningDataModule):
    """Serves the splits that `load_split` of a data set gives, from memory and on the device.

    A data set sets `image_shape` and `num_classes` when it is constructed, and implements `load_split("train" | "test")
    -> (images uint8 (N, C, H, W), labels int64 (N,) or None)`.

    Args:
        batch_size: of the global batch.
        seed: of the order and the flips.
        flip: mirror training images with probability 1/2.
    """

    image_shape: tuple[int, int, int]
    num_classes: int

    def __init__(self, batch_size: int, seed: int = 0, flip: bool = False):
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: at least one image is needed")
        self.batch_size, self.seed, self.flip = batch_size, seed, flip
        self.splits: dict[str, Split] = {}

    def load_split(self, split: str) -> Split:
        """Read a split from where it lies."""
        raise AttributeError(f"{type(self).__name__} does not say how to load its {split} split")

    def split(self, split: str) -> Split:
        """The images and labels of "train" or "test", read once and checked."""
        if split not in ("train", "test"):
            raise ValueError(f"split={split!r}: there are 'train' and 'test'")
        if split not in self.splits:
            images, labels = self.load_split(split)
            if self.num_classes and labels is None:
                raise ValueError(f"a conditional model needs labels, and {self.source} has none")
            if self.num_classes:
                low, high = int(labels.min()), int(labels.max())
                if low < 0 or high >= self.num_classes:
                    raise ValueError(f"num_classes={self.num_classes}: {self.source} has labels from {low} to {high}")
            self.splits[split] = images, labels
        return self.splits[split]

    uint8_images = split

    @property
    def source(self) -> str:
        """Where the data come from, in words."""
        return type(self).__name__

    def describe(self) -> str:
        """Count, size, channels and class counts in one line."""
        images, labels = self.split("train")
        c, h, w = self.image_shape
        counts = "no labels" if labels is None else f"images per class {torch.bincount(labels).tolist()}"
        used = f"{self.num_classes} classes given to the model" if self.num_classes else "unconditional"
        held_out = len(self.split("test")[0])
        return f"Data: {self.source}: {len(images)} + {held_out} held out, {c} x {h} x {w}, {counts}; {used}"

    def setup(self, stage: str) -> None:
        if stage == "fit":
            rank_zero_info(self.describe())

    def _on_device(self, split: str) -> tuple[Split, dict[str, int]]:
        """The split on the device that trains, and this process's place among all."""
        images, labels = self.split(split)
        if self.trainer is None:
            return (images, labels), {}
        device = self.trainer.strategy.root_device
        place = {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
        return (images.to(device), None if labels is None else labels.to(device)), place

    def train_dataloader(self) -> TrainingBatches:
        (images, labels), place = self._on_device("train")
        start = 0 if self.trainer is None else getattr(self.trainer.lightning_module, "images_seen", 0)
        return TrainingBatches(images, labels, self.batch_size, self.seed, start, flip=self.flip, **place)

    def val_dataloader(self) -> EvaluationBatches:
        (images, labels), place = self._on_device("test")
        return EvaluationBatches(images, labels, self.batch_size, **place)

    test_dataloader = val_dataloader
    predict_dataloader = val_dataloader

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """The batches are made on the device."""
        return batch
