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

from cli.errors import fault_of_machine
from evaluation.dashboard_writer import Method
from evaluation.files import replacing
from lightning_modules.checkpoint import CheckpointError, read_checkpoint
from lightning_modules.players import holds_gradients


class VerifiedCheckpointIO(CheckpointIO):
    """Writes through a temporary file in the same folder, with a `.sha256` beside it; reads with `read_checkpoint`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint to a local path; raises OSError that names it, and leaves what was there before."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".part")
        try:
            with open(temporary, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            with open(temporary, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            _sidecar(path).unlink(missing_ok=True)  # killed after this line, the checkpoint stands unverified but whole
            temporary.replace(path)
            write_text(_sidecar(path), f"{digest}  {path.name}\n")
        except Exception as error:  # torch.save makes its own of a full disk
            fault = fault_of_machine(error)
            if fault is None:
                raise
            raise OSError(fault.errno, fault.strerror, str(path)) from None
        finally:
            temporary.unlink(missing_ok=True)

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
        if stage != "fit":
            return
        self.directory = trainer.strategy.broadcast(self.directory)
        if self.directory is not None and trainer.is_global_zero:  # of a run that goes on in its own directory
            self.written = sorted(self.directory.glob("images_*.ckpt"))
            for part in self.directory.glob("*.part"):  # of a process that was killed while it wrote
                part.unlink()
        self.written = trainer.strategy.broadcast(self.written)

    def on_train_start(self, trainer: Trainer, pl_module: Method) -> None:
        self.saved_at = pl_module.images_seen

    def on_train_batch_end(self, trainer: Trainer, pl_module: Method, outputs: Any, batch: Any, batch_idx: int) -> None:
        every = self.every_n_images or max(1, min(pl_module.total_images // 10, 5_000_000))
        due = pl_module.images_seen // every > self.saved_at // every
        if due and step_is_whole(trainer, pl_module, batch_idx):
            self._save(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Method) -> None:
        self._save(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: Method, exception: BaseException) -> None:
        # Raised between two batches. After any other exception a step may have been taken by half.
        if isinstance(exception, SIGTERMException):
            self._save(trainer, pl_module)
        told = isinstance(exception, SIGTERMException | FloatingPointError) or fault_of_machine(exception)
        if told and trainer.is_global_zero and self.last:
            print(f"{self.written[-1]} is the last checkpoint; to go on:")
            print(f"  {program()} fit --ckpt_path {shlex.quote(str(self.last))}", flush=True)

    def _save(self, trainer: Trainer, pl_module: Method) -> None:
        if self.directory is None or pl_module.images_seen == self.saved_at:
            return
        path = self.directory / f"images_{pl_module.images_seen:012d}.ckpt"
        trainer.save_checkpoint(path, weights_only=False)
        self.saved_at = pl_module.images_seen
        self.written = [*(p for p in self.written if p != path), path]
        if not trainer.is_global_zero:
            return
        _link(path, self.directory / "last.ckpt")
        while len(self.written) > self.keep:
            trainer.strategy.remove_checkpoint(self.written.pop(0))


def step_is_whole(trainer: Trainer, pl_module: Method, batch_idx: int) -> bool:
    """Whether no gradients are held over for the next batch, which a checkpoint would lose."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and not holds_gradients(pl_module)


def newest_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint of a run's directory that can be read; None where there is none at all.

    By their names, since clocks differ between machines; a damaged one is told and left out.

    Raises:
        CheckpointError: none of them can be read.
    """
    folder = directory / "checkpoints"
    found = [*sorted(folder.glob("images_*.ckpt"), reverse=True), folder / "last.ckpt"]
    faults = []
    for path in (p for p in found if p.is_file()):
        try:
            read_checkpoint(path)
        except CheckpointError as error:
            faults.append(error)
            continue
        if faults and first_process():
            print(f"note: {faults[0]}; {path} is used", flush=True)
        return path
    if faults:
        raise faults[0]
    return None


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
    # where Lightning itself starts a host's other processes, the host's first one has no rank before
    return getattr(rank_zero_only, "rank", 0) == 0 and int(os.environ.get("NODE_RANK", "0")) == 0


def program() -> str:
    """How this program was called."""
    return "fewstep" if Path(sys.argv[0]).name == "fewstep" else "python main.py"
