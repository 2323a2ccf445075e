"""Short runs of a tiny model with a TensorBoardLogger, and what they leave in their event files."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from diffusion.curricula import DoublingSteps
from diffusion.distances import PseudoHuber
from diffusion.pairs import GridPairs
from diffusion.weightings import InverseGap
from lightning_modules import BCMModule

BATCH, TOTAL = 8, 96
NAMES = ["1_evaluation", "2_evaluations", "4_evaluations"]


class TinyNetwork(nn.Module):
    """One hidden layer on the pixels and both levels."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int):
        super().__init__()
        size = math.prod(image_shape)
        self.layers = nn.Sequential(nn.Linear(size + 2, 16), nn.SiLU(), nn.Linear(16, size))
        self.embedding = nn.Embedding(num_classes, 16) if num_classes else None

    def forward(
        self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, c_target: Tensor | None = None
    ) -> Tensor:
        levels = torch.stack([c_noise, c_noise if c_target is None else c_target], 1)
        hidden = self.layers[0](torch.cat([x.flatten(1), levels], 1))
        if label is not None:
            hidden = hidden + self.embedding(label)
        return self.layers[2](self.layers[1](hidden)).view_as(x)


class Stream(torch.utils.data.IterableDataset):
    """Endless batches, each a function of the images seen before it; of its rows this process gets its share."""

    def __init__(self, trainer: Trainer, image_shape: tuple[int, int, int]):
        self.images_seen, self.image_shape = trainer.lightning_module.images_seen, image_shape
        size = BATCH // trainer.world_size
        self.rows = slice(trainer.global_rank * size, (trainer.global_rank + 1) * size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            g = torch.Generator().manual_seed(self.images_seen)
            x0, label = torch.rand(BATCH, *self.image_shape, generator=g), torch.randint(0, 3, (BATCH,), generator=g)
            yield x0[self.rows] * 2 - 1, label[self.rows]
            self.images_seen += BATCH


class TinyData(LightningDataModule):
    """Random images, or points."""

    def __init__(self, image_shape: tuple[int, int, int] = (1, 4, 4)):
        super().__init__()
        self.save_hyperparameters()
        self.image_shape = image_shape

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(Stream(self.trainer, self.image_shape), batch_size=None)

    def uint8_images(self, split: str) -> tuple[Tensor, Tensor]:
        assert split in ("train", "test")
        g = torch.Generator().manual_seed(1)
        images = torch.randint(0, 256, (40, *self.image_shape), generator=g, dtype=torch.uint8)
        return images, torch.arange(40) % 3


class Record(Callback):
    """What every training step gave, by the images seen before it; optionally breaks the run off."""

    def __init__(self, break_at: int | None = None):
        self.steps: list[tuple[int, dict]] = []
        self.norms: list[float] = []
        self.break_at = break_at

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch, batch_idx: int) -> None:
        if pl_module.images_seen == self.break_at:
            raise RuntimeError("broken off")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, batch, batch_idx: int) -> None:
        self.steps.append((batch_idx * BATCH, outputs))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer) -> None:
        squares = [p.grad.square().sum() for p in pl_module.denoiser.parameters() if p.grad is not None]
        self.norms.append(float(torch.stack(squares).sum().sqrt()))


def bcm(image_shape: tuple[int, int, int] = (1, 4, 4), method: type[BCMModule] = BCMModule, **kwargs) -> BCMModule:
    """A small BCM, always with the same weights."""
    seed_everything(3, verbose=False)
    options = dict(pairs=GridPairs(DoublingSteps(4, 32)), distance=PseudoHuber(), total_images=TOTAL)
    options |= dict(weight=InverseGap(), target_weight=InverseGap(), optimizer=partial(torch.optim.Adam, lr=1e-3))
    return method(TinyNetwork, image_shape, **(options | kwargs))


def fit(
    folder: Path, module: LightningModule, *callbacks: Callback, data: LightningDataModule | None = None, **kwargs
) -> Path:
    """Train to the end with a TensorBoardLogger; the event files are in the folder that is returned."""
    logger = TensorBoardLogger(folder, name="", version="", default_hp_metric=False)
    options = dict(accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, max_epochs=-1)
    options["enable_checkpointing"] = any(isinstance(c, ModelCheckpoint) for c in callbacks)
    ckpt_path = kwargs.pop("ckpt_path", None)
    trainer = Trainer(logger=logger, callbacks=list(callbacks), **(options | kwargs))
    trainer.fit(module, datamodule=data or TinyData(module.image_shape), ckpt_path=ckpt_path, weights_only=False)
    return folder


def read(folder: Path) -> EventAccumulator:
    """All events of a folder."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    return events


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Points (images seen, value) of each tag."""
    events = read(folder)
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def pictures(folder: Path) -> dict[str, list[tuple[int, int, int]]]:
    """(images seen, height, width) of the pictures of each tag."""
    events = read(folder)
    return {tag: [(e.step, e.height, e.width) for e in events.Images(tag)] for tag in events.Tags()["images"]}
