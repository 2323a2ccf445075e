"""Checkpoints of a run: written whole or not at all, verified when read, the newest few kept."""

import hashlib
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from evaluation.dashboard_writer import Method
from evaluation.files import replacing
from lightning_modules.checkpoint import read_checkpoint
from lightning_modules.players import holds_gradients


class VerifiedCheckpointIO(CheckpointIO):
    """Writes through a temporary file in the same folder, with a `.sha256` beside it; reads with `read_checkpoint`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint to a local path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".part")
        with open(temporary, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        with open(temporary, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        _sidecar(path).unlink(
            missing_ok=True
        )  # killed between the two lines, the checkpoint stands unverified but whole
        temporary.replace(path)
        write_text(_sidecar(path), f"{digest}  {path.name}\n")

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint onto the CPU, always with weights_only=True; raises CheckpointError."""
        return read_checkpoint(path)

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint and its digest."""
        _sidecar(Path(path)).unlink(missing_ok=True)
        Path(path).unlink(missing_ok=True)


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode())


class KeepCheckpoints(Checkpoint):
    """Saves `images_<seen>.ckpt` at intervals, at the end and on SIGTERM or Ctrl-C; `last.ckpt` is the newest.

    `last.ckpt` is a hard link and takes no room; where links are impossible it is a copy.

    Args:
        every_n_images: interval in training images; by default a tenth of the run, at most 5,000,000.
        keep: how many of the newest to keep, at least 2, so that a damaged one has a predecessor.
    """

    def __init__(self, every_n_images: int | None = None, keep: int = 2):
        if every_n_images is not None and every_n_images < 1:
            raise ValueError(f"every_n_images={every_n_images}: it must be at least 1")
        if keep < 2:
            raise ValueError(f"keep={keep}: at least 2 checkpoints must be kept")
        self.every_n_images, self.keep = every_n_images, keep
        self.directory: Path | None = None
        self.saved_at = 0
        self.written: list[Path] = []

    @property
    def last(self) -> Path | None:
        """The newest checkpoint."""
        return self.directory / "last.ckpt" if self.directory and self.written else None

    def setup(self, trainer: Trainer, pl_module: Method, stage: str) -> None:
        if stage == "fit":
            self.directory = trainer.strategy.broadcast(self.directory)

    def on_train_start(self, trainer: Trainer, pl_module: Method) -> None:
        self.saved_at = pl_module.images_seen

    def on_train_batch_end(self, trainer: Trainer, pl_module: Method, outputs: Any, batch: Any, batch_idx: int) -> None:
        every = self.every_n_images or max(1, min(pl_module.total_images // 10, 5_000_000))
        # gradients held over for the next batch are not saved, so not in the middle of an accumulation
        step_taken = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and not holds_gradients(pl_module)
        if pl_module.images_seen // every > self.saved_at // every and step_taken:
            self._save(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Method) -> None:
        self._save(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: Method, exception: BaseException) -> None:
        # Raised between two batches. After any other exception a step may have been taken by half.
        if isinstance(exception, SIGTERMException):
            self._save(trainer, pl_module)
        if isinstance(exception, SIGTERMException | FloatingPointError) and trainer.is_global_zero and self.last:
            print(f"{self.written[-1]} is the last checkpoint; to go on:")
            print(f"  {program()} fit --ckpt_path {shlex.quote(str(self.last))}", flush=True)

    def _save(self, trainer: Trainer, pl_module: Method) -> None:
        if self.directory is None or pl_module.images_seen == self.saved_at:
            return
        path = self.directory / f"images_{pl_module.images_seen:012d}.ckpt"
        trainer.save_checkpoint(path, weights_only=False)
        self.saved_at = pl_module.images_seen
        self.written.append(path)
        if not trainer.is_global_zero:
            return
        _link(path, self.directory / "last.ckpt")
        while len(self.written) > self.keep:
            trainer.strategy.remove_checkpoint(self.written.pop(0))


def _link(path: Path, link: Path) -> None:
    """Make `link` another name of the checkpoint `path`, with its digest."""
    temporary = link.with_name(link.name + ".part")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        shutil.copy2(path, temporary)
    _sidecar(link).unlink(missing_ok=True)
    temporary.replace(link)
    write_text(_sidecar(link), _sidecar(path).read_text().replace(path.name, link.name))


def first_process() -> bool:
    """Whether this process is the first of its run, also before there is a Trainer."""
    return getattr(rank_zero_only, "rank", 0) == 0


def program() -> str:
    """How this program was called."""
    return "fewstep" if Path(sys.argv[0]).name == "fewstep" else "python main.py"
