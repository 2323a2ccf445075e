"""The official implementations of EDM and ECT, run from a user's checkout beside ours.

    NVlabs/edm        the folder that holds `training/`, `torch_utils/`, `dnnlib/`
    locuslab/ect      likewise

Their networks and losses are imported from the given path; nothing of theirs lies here. Their training loops are
functions that read data and write files, so the few calls that make a step of them are repeated here.
"""

import contextlib
import importlib
import sys
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.shapes import CPU, Shape

PACKAGES = ("training", "torch_utils", "dnnlib")


@contextlib.contextmanager
def imported_from(folder: Path) -> Iterator[None]:
    """Within it, `PACKAGES` are those of the folder; afterwards they can be imported from another."""
    if not (folder / "training" / "networks.py").is_file():
        raise ValueError(f"{folder} holds no training/networks.py: give the path of a checkout of NVlabs/edm or of ect")
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.split(".")[0] in PACKAGES]:
            del sys.modules[name]


def _generator_of_the_cpu() -> contextlib.AbstractContextManager:
    """ECT saves and restores the generator of CUDA for its dropout; there is none on a CPU."""
    cuda: types.ModuleType = torch.cuda
    return mock.patch.multiple(cuda, get_rng_state=torch.get_rng_state, set_rng_state=torch.set_rng_state)


class OfficialEDM:
    """EDM's or ECT's network and loss at one shape, on one process.

    Args:
        checkout: of NVlabs/edm or of locuslab/ect.
        method: "diffusion" of the first, "ect" of the second.
        shape: of the network, which has DDPM++'s blocks.
        batch_size: images per step.
        device: where it runs.
        half: with `--fp16=1`; for a GPU, the network stays in float32 on a CPU.

    Raises:
        ValueError: the path holds no such checkout.
    """

    def __init__(
        self,
        checkout: Path,
        method: str,
        shape: Shape,
        batch_size: int,
        device: torch.device = CPU,
        half: bool = False,
    ):
        self.consistency, self.shape, self.batch_size = method == "ect", shape, batch_size
        self.device, self.half = device, half
        with imported_from(checkout), mock.patch("builtins.print"):
            networks: Any = importlib.import_module("training.networks")
            losses: Any = importlib.import_module("training.loss")
            build = networks.ECMPrecond if self.consistency else networks.EDMPrecond
            self.network, self.average = (self._network(build) for _ in range(2))
            self.loss = losses.ECMLoss(adj="sigmoid", q=2) if self.consistency else losses.EDMLoss()
            if self.consistency:
                self.loss.update_schedule(0)
        self.average.eval().requires_grad_(False)
        self.average.load_state_dict(self.network.state_dict())
        optimizer = torch.optim.RAdam if self.consistency else torch.optim.Adam  # as their train.py defaults
        self.optimizer = optimizer(self.network.parameters(), lr=1e-4, betas=(0.9, 0.999), eps=1e-8)

    def _network(self, build: Callable[..., torch.nn.Module]) -> torch.nn.Module:
        return (
            build(
                img_resolution=self.shape.size,
                img_channels=3,
                model_type="SongUNet",
                model_channels=self.shape.channels,
                channel_mult=list(self.shape.channel_mult),
                num_blocks=self.shape.num_blocks,
                attn_resolutions=list(self.shape.attention_resolutions),
                dropout=0.0,
                use_fp16=self.half,
            )
            .to(self.device)
            .train()
        )

    def calls(self, x0: Tensor) -> dict[str, Callable[[], Any]]:
        """What is timed, by measure, at images x0 (B, C, H, W) in [-1, 1]."""
        calls: dict[str, Callable[[], Any]] = {"step": partial(self.step, x0), "gradient": partial(self.gradient, x0)}
        if self.consistency:
            calls |= {f"sample_{n}": partial(self.sample, len(x0), n) for n in (1, 2)}
        return calls

    def gradient(self, x0: Tensor) -> None:
        """Loss and backward."""
        self.optimizer.zero_grad(set_to_none=True)
        with contextlib.nullcontext() if self.device.type == "cuda" else _generator_of_the_cpu():
            self.loss(net=self.network, images=x0).sum().mul(1 / self.batch_size).backward()

    def step(self, x0: Tensor) -> None:
        """One training step as their loops take it: loss, backward, gradients made finite, optimizer, EMA."""
        self.gradient(x0)
        for parameter in self.network.parameters():
            if parameter.grad is not None:
                torch.nan_to_num(parameter.grad, nan=0, posinf=1e5, neginf=-1e5, out=parameter.grad)
        self.optimizer.step()
        with torch.no_grad():
            for average, parameter in zip(self.average.parameters(), self.network.parameters(), strict=True):
                average.copy_(parameter.detach().lerp(average, 0.9999))

    @torch.no_grad()
    def sample(self, batch_size: int, evaluations: int = 1) -> Tensor:
        """Samples (B, C, H, W) from the averaged network; noised anew between evaluations."""
        x = torch.zeros(batch_size, *self.shape.image_shape, device=self.device)
        for level in (80.0, 0.821)[:evaluations]:
            x = self.average(x + level * torch.randn_like(x), x.new_full((batch_size,), level))
        return x
