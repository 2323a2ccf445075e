"""Our training step and few-step sampling, as a Trainer would run them, without the Trainer."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.shapes import Shape
from diffusion.adversarial import GradientPenalty
from diffusion.curricula import ConstantSteps, ECTGap
from diffusion.denoisers import EDMDenoiser
from diffusion.distances import PseudoHuber, SquaredL2
from diffusion.levels import LogNormal, UniformRho
from diffusion.ode_samplers import DPMSolverPP2M
from diffusion.pairs import ContinuousPairs, GridPairs
from diffusion.paths import GridPaths
from diffusion.rng import ImageNoise
from diffusion.weightings import ConstantGap, InverseGap
from lightning_modules import BCMModule, CDModule, CTModule, DiffusionModule, UFOGenModule
from lightning_modules.players import Player
from lightning_modules.run import SkipNonFinite
from networks import ConvDiscriminator


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


def diffusion_module(shape: Shape, compiled: bool = False) -> DiffusionModule:
    """Diffusion as NVlabs/edm trains it, sampled by DPM-Solver++(2M), which can spend any number of evaluations."""
    return DiffusionModule(
        network=lambda image_shape, num_classes: shape.ddpmpp(),
        image_shape=shape.image_shape,
        levels=LogNormal(-1.2, 1.2),
        sampler=DPMSolverPP2M(),
        optimizer=partial(torch.optim.Adam, fused=True),
        total_images=10**9,
        compile=compiled,
    )


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


def ect_module(shape: Shape, compiled: bool = False) -> CTModule:
    """CT as locuslab/ect trains it, but for the constant of its distance, which is iCT's."""
    return CTModule(
        network=lambda image_shape, num_classes: shape.ddpmpp(),
        image_shape=shape.image_shape,
        pairs=ContinuousPairs(ECTGap(), LogNormal(-1.1, 2.0)),
        distance=PseudoHuber(),
        weight=InverseGap(),
        total_images=10**9,
        compile=compiled,
    )


def cd_module(shape: Shape, compiled: bool = False) -> CDModule:
    """As `ct_module`, CD; with an untrained teacher."""
    return CDModule(
        network=lambda image_shape, num_classes: shape.network(bidirectional=False),
        image_shape=shape.image_shape,
        teacher=EDMDenoiser(shape.network(bidirectional=False)).requires_grad_(False),
        paths=GridPaths(ConstantSteps(shape.num_steps)),
        distance=SquaredL2(),
        weight=ConstantGap(),
        total_images=10**9,
        target_rate=shape.target_rate,
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


def ufogen_module(shape: Shape, compiled: bool = False) -> UFOGenModule:
    """UFOGen with DDGAN's discriminator for CIFAR-10; its penalty is due in one step of 16, no median shows it."""
    return UFOGenModule(
        network=lambda image_shape, num_classes: shape.ddpmpp(),
        image_shape=shape.image_shape,
        discriminator=partial(ConvDiscriminator, channel_mult=(2, 4, 8, 8)[: len(shape.channel_mult) + 1]),
        penalty=GradientPenalty(interval=16),
        generator_player=Player(partial(torch.optim.Adam, fused=True)),
        discriminator_player=Player(partial(torch.optim.Adam, fused=True)),
        total_images=10**9,
    )


METHODS: dict[str, Callable[[Shape, bool], Any]] = {
    "diffusion": diffusion_module,
    "ct": ct_module,
    "ect": ect_module,
    "cd": cd_module,
    "bcm": bcm_module,
    "ufogen": ufogen_module,
}
UNCOMPILED = ("ufogen",)
"""A penalty of the gradient goes backward twice, which a compiled loss does not."""
EVALUATIONS = {"diffusion": (18,)}
"""With which each is sampled; the others with one and two."""


class Ours:
    """A module with its optimizers and the guard against non-finite gradients.

    Args:
        method: of `METHODS`.
        shape: of the network.
        variant: how it runs.
        device: where.
    """

    def __init__(self, method: str, shape: Shape, variant: Variant, device: torch.device):
        self.variant, self.image_shape, self.device = variant, shape.image_shape, device
        self.evaluations = EVALUATIONS.get(method, (1, 2))
        self.module = METHODS[method](shape, variant.compiled).to(device)
        if isinstance(self.module, BCMModule):
            self.module.fused = variant.fused
        if variant.channels_last:
            self.module.to(memory_format=torch.channels_last)
        built = self.module.configure_optimizers()
        self.optimizers: list[torch.optim.Optimizer] = built if isinstance(built, list) else [built]
        self.module.optimizers = lambda: self.optimizers
        self.guard, self.steps = SkipNonFinite(), 0
        self.guard.optimizers = self.optimizers
        self.guard.skipped = torch.zeros(1 + len(self.optimizers), dtype=torch.int64, device=device)
        for optimizer in self.optimizers:
            optimizer.register_step_pre_hook(self._watch)

    def _watch(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self.guard.on_before_optimizer_step(None, self.module, optimizer)  # type: ignore[arg-type]

    @property
    def network(self) -> torch.nn.Module:
        """The network in training."""
        return self.module.denoiser.network

    def _precision(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.variant.bfloat16)

    def calls(self, x0: Tensor) -> dict[str, Callable[[], Any]]:
        """What is timed, by measure, at images x0 (B, C, H, W) in [-1, 1]."""
        calls: dict[str, Callable[[], Any]] = {"step": partial(self.step, x0)}
        if self.module.automatic_optimization:
            calls["gradient"] = partial(self.gradient, x0)
        return calls | {f"sample_{n}": partial(self.sample, len(x0), n) for n in self.evaluations}

    def _train(self, x0: Tensor) -> Tensor:
        with self._precision():
            return self.module.training_step((x0, None), self.steps)["loss"]

    def gradient(self, x0: Tensor) -> None:
        """Loss and backward."""
        self.optimizers[0].zero_grad()
        self._train(x0).backward()

    def step(self, x0: Tensor) -> None:
        """One training step: loss, backward, guard, optimizer, EMA; of a game both turns."""
        if self.module.automatic_optimization:
            self.gradient(x0)
            self.optimizers[0].step()
        else:
            self._train(x0)
        self.module.update_averages(self.steps)
        self.module.images_seen += len(x0)
        self.steps += 1

    @torch.no_grad()
    def sample(self, batch_size: int, evaluations: int = 1) -> Tensor:
        """Samples (B, C, H, W) from the averaged network, with a generator per image."""
        with self._precision():
            return self.module.sample(ImageNoise(range(batch_size), self.image_shape, self.device), evaluations)
