"""A trained model by the path of its checkpoint, as the frozen teacher of a distillation."""

from pathlib import Path

import torch
from torch import Tensor, nn

from diffusion.denoisers import Denoise
from lightning_modules.checkpoint import CheckpointError, load_denoiser


class Teacher:
    """A frozen denoiser, called as `teacher(x, sigma, label)` without gradient.

    One given by path is read when it is first needed, moved to the device of its input and in evaluation mode. It is no
    part of the student: neither of its parameters nor of its checkpoint, which is loaded without the teacher's.

    Args:
        source: a checkpoint of `main.py fit`, or a denoiser, such as the exact one of a known distribution.
    """

    def __init__(self, source: str | Denoise):
        self.path = source if isinstance(source, str) else None
        self._denoise: Denoise | None = None if isinstance(source, str) else source

    @property
    def denoise(self) -> Denoise:
        """The denoiser itself, read on first use.

        Raises:
            CheckpointError: there is no such file (the message names the command that makes one), or it cannot be read.
        """
        if self._denoise is None:
            assert self.path is not None
            if not Path(self.path).is_file():
                raise CheckpointError(
                    f"there is no teacher {self.path}: python main.py fit --config configs/{maker(self.path)}.yaml "
                    f"trains one, and --model.init_args.teacher PATH names it"
                )
            self._denoise = load_denoiser(self.path)
        return self._denoise

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        denoise = self.denoise
        if isinstance(denoise, nn.Module):
            denoise.to(x.device)
        return denoise(x, sigma, label)


def maker(path: str) -> str:
    """The config whose run writes this checkpoint: runs/NAME/000/checkpoints/last.ckpt is written by NAME's."""
    parts = Path(path).parts
    return parts[-4] if len(parts) >= 4 and parts[-2] == "checkpoints" else "diffusion"
