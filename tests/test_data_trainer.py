"""Datamodules under a Trainer: where the stream starts, whose slice is given, and what is said."""

from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from datamodules import DigitsDataModule
from datamodules.loader import EvaluationBatches, TrainingBatches


class Records(LightningModule):
    """Keeps the batches that it is given."""

    def __init__(self, images_seen: int = 0):
        super().__init__()
        self.images_seen = images_seen
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.trained: list[tuple[Tensor, Tensor]] = []
        self.validated: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.trained.append(batch)
        return self.scale * batch[0].mean()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.validated.append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(module: Records, steps: int, **options: Any) -> None:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=-1,
        max_steps=steps,
        val_check_interval=steps,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=DigitsDataModule(batch_size=200, **options))


@pytest.mark.filterwarnings("ignore")
def test_a_fit_starts_at_the_images_seen_and_says_once_what_the_data_are(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = Records(), Records(images_seen=1400)
    fit(first, 10)
    assert capsys.readouterr().out.count("data:     scikit-learn's digits: 1,437 images, 360 held out") == 1
    fit(second, 3)
    for (x0, label), (again, its) in zip(first.trained[7:10], second.trained, strict=True):
        assert torch.equal(x0, again) and torch.equal(label, its)
    x0, label = (torch.cat(part) for part in zip(*first.validated, strict=True))
    images, labels = DigitsDataModule().uint8_images("test")
    assert torch.equal(label, labels) and torch.equal(x0, images / 127.5 - 1)


def placed(rank: int, world_size: int, device_bytes: int) -> tuple[TrainingBatches, EvaluationBatches]:
    """The loaders of a process among others."""
    data = DigitsDataModule(batch_size=12)
    data.device_bytes = device_bytes  # type: ignore[misc]
    strategy, module = SimpleNamespace(root_device=torch.device("cpu")), SimpleNamespace(images_seen=36)
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        strategy=strategy, lightning_module=module, global_rank=rank, world_size=world_size
    )
    return data.train_dataloader(), data.val_dataloader()


@pytest.mark.parametrize("device_bytes", [0, 2**32])  # gathered on the host, or on the device
def test_processes_share_a_batch_and_the_held_out_images(device_bytes: int) -> None:
    whole, held_out = placed(0, 1, device_bytes)
    parts = [placed(rank, 3, device_bytes) for rank in range(3)]
    for (x0, label), *slices in islice(zip(whole, *(train for train, _ in parts), strict=False), 5):
        assert [len(part[0]) for part in slices] == [4, 4, 4]
        assert torch.equal(x0, torch.cat([part[0] for part in slices]))
        assert torch.equal(label, torch.cat([part[1] for part in slices]))
    shown = [torch.cat([x0 for x0, _ in test]) for _, test in parts]
    assert torch.equal(torch.stack(shown, dim=1).flatten(0, 1), torch.cat([x0 for x0, _ in held_out]))


def test_a_batch_that_the_processes_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size=12: the global batch must be a multiple of the 5 processes"):
        placed(0, 5, 2**32)
