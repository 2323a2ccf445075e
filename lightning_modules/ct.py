"""CT: consistency training without a teacher, and its successors iCT and ECT.

    x_t = x0 + t z,  x_s = x0 + s z          neighbouring levels t > s, the same noise z
    L = lambda(t, s) d( f(x_t, t), sg f_target(x_s, s) )

x_s is one Euler step from x_t whose denoiser is the true x0. With the same dropout mask for both passes.

| method | pairs | weight | distance | target |
|---|---|---|---|---|
| CT (Song et al. 2023, arXiv 2303.01469) | GridPairs(SquareRootSteps, UniformRho) | ConstantGap | LPIPS | TargetRate |
| iCT (Song & Dhariwal 2023, arXiv 2310.14189) | GridPairs(DoublingSteps, LogNormal) | InverseGap | PseudoHuber | none |
| ECT (Geng et al. 2024, arXiv 2406.14548) | ContinuousPairs(ECTGap, LogNormal) | InverseGap | PseudoHuber | none |
"""

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from diffusion.denoisers import ConsistencyDenoiser
from diffusion.ema import EMA, average_in
from diffusion.noise import perturb
from diffusion.pairs import PairLaw
from diffusion.rng import ImageNoise, shared_dropout
from diffusion.samplers import levels_for, multistep
from lightning_modules.checkpoint import start_from
from lightning_modules.radam import RAdam
from lightning_modules.run import (
    StepOutput,
    check_budget,
    compiled,
    log_loss,
    optimizer_and_schedule,
    run_callbacks,
    step_draws,
)


class CTDraws(NamedTuple):
    """What is random in a step: noise like x0, levels t > s (B,), the seed of the dropout mask."""

    noise: Tensor
    t: Tensor
    s: Tensor
    dropout_seed: int


class CTModule(LightningModule):
    """Consistency training.

    Args:
        network: factory `(image_shape, num_classes) -> nn.Module`.
        image_shape: (C, H, W), from the datamodule.
        pairs: law of the levels t > s.
        distance: d, images (B, ...), (B, ...) -> (B,).
        weight: lambda(t, s).
        total_images: length of the run in training images.
        num_classes: 0 for an unconditional model, from the datamodule.
        optimizer: factory of the optimizer.
        lr_factor: factor of the learning rate as a function of the run's progress; None keeps it constant.
        target_rate: EMA rate of the target network as a function of progress (CT); None for the current weights.
        sigma_data, sigma_min, sigma_max: as in `ConsistencyDenoiser`.
        ema_rates: averaging rates per step, the first is evaluated.
        ema_batch: images of the step that the rates are of, see `EMA`; None for this run's step, whatever its size.
        schedules: levels visited when sampling, one sequence per number of evaluations.
        init_from: checkpoint of a denoiser whose EMA weights training starts from.
        compile: run the loss through torch.compile as one graph; with dropout, the network.
        seed: of all random draws.
    """

    def __init__(
        self,
        network: Callable[[tuple[int, int, int], int], nn.Module],
        image_shape: tuple[int, int, int],
        pairs: PairLaw,
        distance: Callable[[Tensor, Tensor], Tensor],
        weight: Callable[[Tensor, Tensor], Tensor],
        total_images: int,
        num_classes: int = 0,
        optimizer: OptimizerCallable = RAdam,
        lr_factor: Callable[[float], float] | None = None,
        target_rate: Callable[[float], float] | None = None,
        sigma_data: float = 0.5,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        ema_rates: Sequence[float] = (0.9999,),
        ema_batch: int | None = None,
        schedules: Sequence[Sequence[float]] = ((80.0,), (80.0, 0.821)),
        init_from: str | None = None,
        compile: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        check_budget(total_images)
        self.save_hyperparameters()
        self.denoiser = ConsistencyDenoiser(network(image_shape, num_classes), sigma_data, sigma_min, sigma_max)
        self.ema = EMA(self.denoiser, ema_rates, batch=ema_batch)
        # in training mode like the student, or it would not see the student's dropout mask
        self.target = copy.deepcopy(self.denoiser).requires_grad_(False) if target_rate else None
        self.image_shape, self.num_classes, self.total_images = tuple(image_shape), num_classes, total_images
        self.pairs, self.distance, self.weight, self.target_rate = pairs, distance, weight, target_rate
        self.make_optimizer, self.lr_factor = optimizer, lr_factor
        self.schedules, self.init_from, self.seed = schedules, init_from, seed
        self.images_seen = 0
        self.objective = compiled(self.loss_at, self.denoiser) if compile else self.loss_at

    @property
    def ema_denoiser(self) -> ConsistencyDenoiser:
        """The averaged denoiser that is evaluated."""
        return self.ema.evaluated

    @property
    def progress(self) -> float:
        """Position in the run, from 0 to 1."""
        return self.images_seen / self.total_images

    def draw(self, x0: Tensor, position: int | None = None) -> CTDraws:
        """The random numbers of a step, a function of the seed and of `position`, by default the images seen."""
        draws, sigma_range = step_draws(self, x0, position), (self.denoiser.sigma_min, self.denoiser.sigma_max)
        t, s = self.pairs.pairs(draws.uniform(len(x0), "levels"), self.progress, *sigma_range)
        return CTDraws(draws.normal_like(x0, "noise"), t.float(), s.float(), draws.stream_seed("dropout"))

    def loss_at(self, x0: Tensor, label: Tensor | None, draws: CTDraws) -> Tensor:
        """The loss of each image (B,) at the given draws."""
        noise, t, s, seed = draws
        with shared_dropout(seed, self.denoiser):
            student = self.denoiser(perturb(x0, noise, t), t, label)
        with shared_dropout(seed, self.denoiser), torch.no_grad():
            teacher = self.denoiser if self.target is None else self.target
            target = teacher(perturb(x0, noise, s), s, label)
        return self.weight(t, s) * self.distance(student, target)

    def loss(self, x0: Tensor, label: Tensor | None = None, position: int | None = None) -> Tensor:
        """The loss of each image (B,) at the draws of a step; x0 (B, C, H, W) in [-1, 1], label (B,) or None."""
        return self.objective(x0, label if self.num_classes else None, self.draw(x0, position))

    def training_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> StepOutput:
        x0, label = batch
        draws = self.draw(x0)
        loss = self.objective(x0, label if self.num_classes else None, draws)
        return {"loss": loss.mean(), "sigma": draws.t, "terms": {"consistency": loss.detach()}}

    def sample(self, noise: ImageNoise, steps: int = 1, label: Tensor | None = None) -> Tensor:
        """Generate (B, C, H, W) from the EMA weights by the schedule with `steps` evaluations."""
        sigmas = levels_for(self.schedules, steps)
        return multistep(self.ema_denoiser, sigmas[0] * noise(), sigmas, noise, label, self.denoiser.sigma_min)

    def validation_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> None:
        log_loss(self, "val/loss", batch, batch_idx)

    def test_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> None:
        log_loss(self, "test/loss", batch, batch_idx)

    def on_fit_start(self) -> None:
        if self.init_from is not None and self.trainer.ckpt_path is None:  # not known before: `setup` is too early
            start_from(self.init_from, self.denoiser, self.ema, self.target)

    def update_averages(self, k: int, images: int | None = None) -> None:
        """Called after the k-th optimizer step, which took `images` images."""
        self.ema.update(self.denoiser, k, images)
        if self.target is not None and self.target_rate is not None:
            average_in(self.target, self.denoiser, self.target_rate(self.progress))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return optimizer_and_schedule(self, self.denoiser.parameters(), self.make_optimizer, self.lr_factor)

    def configure_callbacks(self) -> list:
        return run_callbacks()
