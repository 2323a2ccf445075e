"""Our training step and one-step sampling, as a Trainer would run them, without the Trainer."""

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.shapes import Shape
from diffusion.curricula import ConstantSteps
from diffusion.distances import PseudoHuber, SquaredL2
from diffusion.levels import UniformRho
from diffusion.pairs import GridPairs
from diffusion.rng import ImageNoise
from diffusion.weightings import ConstantGap, InverseGap
from lightning_modules import BCMModule, CTModule
from lightning_modules.run import SkipNonFinite


@dataclass(frozen=True)
class Variant:
    """How our code runs.

    Args:
        bfloat16: the network under autocast.
        channels_last: the weights in that memory format, as `lightning_modules.run.ChannelsLast` has it in float32
            on a CPU; what the network computes follows.
        compiled: the loss through torch.compile.
        fused: BCM's passes A and C as one; False for two, as a network with dropout needs.
    """

    bfloat16: bool = False
    channels_last: bool = False
    compiled: bool = False
    fused: bool = True

    @property
    def name(self) -> str:
        """What is said of it in tables: the precision, and what differs from how a Trainer runs it on a CPU."""
        said = ["bfloat16" if self.bfloat16 else "float32"]
        if self.channels_last == self.bfloat16:
            said.append("channels_last" if self.channels_last else "contiguous")
        return " ".join(said + ["compile"] * self.compiled + ["unfused"] * (not self.fused))


def ct_module(shape: Shape, compiled: bool = False) -> CTModule:
    """CT as openai/consistency_models trains it, but for the distance: squared L2 on both sides."""
    return CTModule(
        network=lambda image_shape, num_classes: shape.network(bidirectional=False),
        image_shape=shape.image_shape,
        pairs=GridPairs(ConstantSteps(shape.num_steps), UniformRho()),
        distance=SquaredL2(),
        weight=ConstantGap(),
        total_images=10**9,
        target_rate=lambda progress: shape.target_rate,
        compile=compiled,
    )


def bcm_module(shape: Shape, compiled: bool = False) -> BCMModule:
    """BCM as Mosasaur5526/BCM-iCT-torch trains it."""
    return BCMModule(
        network=lambda image_shape, num_classes: shape.network(bidirectional=True),
        image_shape=shape.image_shape,
        pairs=GridPairs(ConstantSteps(shape.num_steps), reach_top=False),
        distance=PseudoHuber(per_root_dim=True),
        weight=InverseGap(),
        target_weight=InverseGap(),
        total_images=10**9,
        compile=compiled,
    )


class Ours:
    """A module with its optimizer and the guard against non-finite gradients.

    Args:
        bidirectional: BCM rather than CT.
        shape: of the network.
        variant: how it runs.
        device: where.
    """

    def __init__(self, bidirectional: bool, shape: Shape, variant: Variant, device: torch.device):
        self.variant, self.image_shape, self.device = variant, shape.image_shape, device
        module = (bcm_module if bidirectional else ct_module)(shape, variant.compiled).to(device)
        if isinstance(module, BCMModule):
            module.fused = variant.fused
        if variant.channels_last:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.module = module
        optimizer = module.configure_optimizers()
        assert isinstance(optimizer, torch.optim.Optimizer)
        self.optimizer = optimizer
        self.guard, self.steps = SkipNonFinite(), 0
        self.guard.skipped = self.guard.skipped.to(device)

    @property
    def network(self) -> torch.nn.Module:
        """The network in training."""
        return self.module.denoiser.network

    def _precision(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.variant.bfloat16)

    def gradient(self, x0: Tensor) -> None:
        """Loss and backward; x0 (B, C, H, W) in [-1, 1]."""
        self.optimizer.zero_grad()
        with self._precision():
            loss = self.module.training_step((x0, None), self.steps)["loss"]
        loss.backward()

    def step(self, x0: Tensor) -> None:
        """One training step: loss, backward, guard, RAdam, EMA."""
        self.gradient(x0)
        self.guard.on_before_optimizer_step(None, self.module, self.optimizer)  # type: ignore[arg-type]
        self.optimizer.step()
        self.module.update_averages(self.steps)
        self.module.images_seen += len(x0)
        self.steps += 1

    @torch.no_grad()
    def sample(self, batch_size: int) -> Tensor:
        """One-step samples (B, C, H, W) from the averaged network, with a generator per image."""
        with self._precision():
            return self.module.sample(ImageNoise(range(batch_size), self.image_shape, self.device), 1)
