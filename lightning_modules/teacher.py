"""A trained model by the path of its checkpoint, as the frozen teacher of a distillation."""

from pathlib import Path

import torch
from torch import Tensor, nn

from diffusion.denoisers import Denoise
from lightning_modules.checkpoint import CheckpointError, frozen_denoiser, load_module


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
            CheckpointError: there is no such file (the message names another, or the command that makes one), it cannot
                be read, or it holds no diffusion model or flow.
        """
        if self._denoise is None:
            assert self.path is not None
            if not Path(self.path).is_file():
                raise CheckpointError(f"there is no teacher {self.path}: {remedy(self.path)}")
            module = load_module(self.path)
            if not hasattr(module, "sampler"):
                raise CheckpointError(
                    f"{self.path} holds a {type(module).__name__}, which has no ODE to follow: a teacher is a "
                    f"DiffusionModule or a RectifiedFlowModule"
                )
            self._denoise = frozen_denoiser(module)
        return self._denoise

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        denoise = self.denoise
        if isinstance(denoise, nn.Module):
            denoise.to(x.device)
        return denoise(x, sigma, label)


def remedy(path: str) -> str:
    """What to do without a teacher runs/NAME/NUMBER/checkpoints/last.ckpt: take another of NAME, or make one."""
    parts = Path(path).parts
    is_run = len(parts) >= 4 and parts[-2] == "checkpoints"
    others = Path(path).parents[2].glob(f"*/checkpoints/{parts[-1]}") if is_run else iter(())
    newest = max(others, key=lambda p: (len(p.parts[-3]), p.parts[-3]), default=None)  # by number
    if newest is not None:
        return f"the newest one beside it is --model.init_args.teacher {newest}"
    name = parts[-4] if is_run else "diffusion"
    return f"python main.py fit --config configs/{name}.yaml trains one, and --model.init_args.teacher PATH names it"
