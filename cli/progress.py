"""The progress bar of a run, in images: the training loader has no length, the run has."""

import sys
import time
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from evaluation.dashboard_writer import Method


class ImagesBar(ProgressBar):
    """Images seen of all, images per second and the loss; lines of text where there is no terminal.

    The loss is fetched from the device when it is shown and not at every step, which would wait for the device.

    Args:
        every_seconds: time between two updates on a terminal.
        line_every_seconds: time between two lines elsewhere.
    """

    def __init__(self, every_seconds: float = 0.5, line_every_seconds: float = 15.0):
        super().__init__()
        self.every_seconds, self.line_every_seconds = every_seconds, line_every_seconds
        self.enabled = True
        self.progress: Progress | None = None
        self.task = TaskID(0)
        self.shown = 0.0
        self.start = (0.0, 0)

    def enable(self) -> None:
        self.enabled = True

    def disable(self) -> None:
        self.enabled = False

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        (self.progress.console.print if self.progress else print)(*args, **kwargs)

    def on_train_start(self, trainer: Trainer, pl_module: Method) -> None:
        self.shown = time.monotonic()
        self.start = (self.shown, pl_module.images_seen)
        if self.enabled and sys.stdout.isatty():
            self.progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f} images"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[numbers]}"),
                console=Console(),
                auto_refresh=False,
            )
            self.task = self.progress.add_task(
                "training", total=pl_module.total_images, completed=pl_module.images_seen, numbers=""
            )
            self.progress.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Method, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._due():
            self._show(pl_module, outputs)

    def on_validation_start(self, trainer: Trainer, pl_module: Method) -> None:
        self.shown = time.monotonic()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Method, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Of a slow model the held-out images take minutes, at the end of a run too."""
        if self._due():
            line = f"held-out images: batch {batch_idx + 1:,} of {trainer.num_val_batches[dataloader_idx]:,}"
            if self.progress is not None:
                self.progress.update(self.task, numbers=line)
                self.progress.refresh()
            else:
                print(line, flush=True)

    def _due(self) -> bool:
        """Whether it is time to show something; the clock starts anew if it is."""
        now = time.monotonic()
        due = self.enabled and now - self.shown >= (self.every_seconds if self.progress else self.line_every_seconds)
        if due:
            self.shown = now
        return due

    def _show(self, pl_module: Method, outputs: Any) -> None:
        then, images = self.start
        speed = (pl_module.images_seen - images) / max(time.monotonic() - then, 1e-9)
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        numbers = f"{speed:,.0f} images/s"
        if isinstance(loss, torch.Tensor):
            numbers += f"  loss {loss.item():.4g}"
        if self.progress is not None:
            self.progress.update(self.task, completed=pl_module.images_seen, numbers=numbers)
            self.progress.refresh()
        else:
            seen, total = pl_module.images_seen, pl_module.total_images
            left = f"  {(total - seen) / speed:,.0f} s left" if speed > 0 else ""
            print(f"{seen:,} of {total:,} images ({seen / total:.0%})  {numbers}{left}", flush=True)

    def on_train_end(self, trainer: Trainer, pl_module: Method) -> None:
        if self.progress is not None:
            self.progress.update(self.task, completed=pl_module.images_seen)
            self.progress.refresh()
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: Method, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None
