"""A trained model by the path of its checkpoint, as the frozen teacher of a distillation."""

from pathlib import Path

import torch
from torch import Tensor

from diffusion.denoisers import Denoise, Denoiser
from lightning_modules.checkpoint import CheckpointError, load_denoiser


class Teacher:
    """The frozen EMA denoiser of a checkpoint, called as `teacher(x, sigma, label)` without gradient.

    It is read when it is first needed, moved to the device of its input, always in evaluation mode, and no part of the
    student: neither of its parameters nor of its checkpoint. So a student's checkpoint is loaded without its teacher.

    Args:
        path: a checkpoint of `main.py fit`.
    """

    def __init__(self, path: str):
        self.path = path
        self._denoiser: Denoiser | None = None

    @property
    def denoiser(self) -> Denoiser:
        """The denoiser itself, read on first use.

        Raises:
            CheckpointError: there is no such file (the message names the command that makes one), or it cannot be read.
        """
        if self._denoiser is None:
            if not Path(self.path).is_file():
                raise CheckpointError(
                    f"there is no teacher {self.path}: python main.py fit --config configs/diffusion.yaml trains one; "
                    f"name it with --model.init_args.teacher PATH"
                )
            self._denoiser = load_denoiser(self.path)
        return self._denoiser

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        return self.denoiser.to(x.device)(x, sigma, label)


def as_teacher(teacher: str | Denoise) -> Denoise:
    """A path as a `Teacher`; any other denoiser, such as the exact one of a known distribution, as it is."""
    return Teacher(teacher) if isinstance(teacher, str) else teacher


def read_teacher(teacher: Denoise) -> None:
    """Read a teacher given by path now rather than in the first step, so that a missing one is told at once."""
    if isinstance(teacher, Teacher):
        _ = teacher.denoiser
