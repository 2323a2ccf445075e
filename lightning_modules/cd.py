"""CD: consistency distillation of a diffusion model (Song et al. 2023, arXiv 2303.01469, algorithm 2).

    x_t = x0 + t z
    x_s = Solve_phi(x_t, t -> s)             one or more solver steps of the teacher phi, no gradient
    L = lambda(t, s) d( f(x_t, t), sg f_target(x_s, s) )

CT's objective (`ct.py`) is this one with Euler's step and the true x0 as the teacher's denoiser.
"""

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from diffusion.denoisers import ConsistencyDenoiser, Denoise
from diffusion.ema import EMA, average_in
from diffusion.noise import perturb
from diffusion.paths import PathLaw
from diffusion.rng import ImageNoise, shared_dropout
from diffusion.samplers import levels_for, multistep
from diffusion.solvers import Step, heun_step, solve
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
from lightning_modules.teacher import Teacher


class CDDraws(NamedTuple):
    """What is random in a step: noise like x0, the path of levels from t to s (k + 1, B), the dropout mask's seed."""

    noise: Tensor
    path: Tensor
    dropout_seed: int


class CDModule(LightningModule):
    """Consistency distillation.

    Args:
        network: factory `(image_shape, num_classes) -> nn.Module`.
        image_shape: (C, H, W), from the datamodule.
        teacher: checkpoint of the diffusion model, which the student and its target start from; in Python also any
            denoiser.
        paths: law of the levels from t to s, the ends included.
        distance: d, images (B, ...), (B, ...) -> (B,).
        weight: lambda(t, s).
        total_images: length of the run in training images.
        solver: one step of the teacher's ODE, Heun's by default; `diffusion.solvers.euler_step` is the other.
        num_classes: 0 for an unconditional model, from the datamodule.
        optimizer: factory of the optimizer.
        lr_factor: factor of the learning rate as a function of the run's progress; None keeps it constant.
        target_rate: EMA rate mu of the target network; 0 for the current weights, as for CIFAR-10 in the paper.
        sigma_data, sigma_min, sigma_max: as in `ConsistencyDenoiser`.
        ema_rates: averaging rates per step, the first is evaluated.
        ema_batch: images of the step that the rates are of, see `EMA`; None for this run's step, whatever its size.
        schedules: levels visited when sampling, one sequence per number of evaluations.
        init_from: checkpoint that training starts from in the place of the teacher.
        compile: run the loss through torch.compile as one graph; with dropout, the network. The teacher is left out.
        seed: of all random draws.
    """

    def __init__(
        self,
        network: Callable[[tuple[int, int, int], int], nn.Module],
        image_shape: tuple[int, int, int],
        teacher: str | Denoise,
        paths: PathLaw,
        distance: Callable[[Tensor, Tensor], Tensor],
        weight: Callable[[Tensor, Tensor], Tensor],
        total_images: int,
        solver: Step = heun_step,
        num_classes: int = 0,
        optimizer: OptimizerCallable = RAdam,
        lr_factor: Callable[[float], float] | None = None,
        target_rate: float = 0.0,
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
        if not 0 <= target_rate < 1:
            raise ValueError(f"target_rate={target_rate}: an averaging rate lies in [0, 1)")
        self.save_hyperparameters(ignore=() if isinstance(teacher, str) else "teacher")
        self.denoiser = ConsistencyDenoiser(network(image_shape, num_classes), sigma_data, sigma_min, sigma_max)
        self.ema = EMA(self.denoiser, ema_rates, batch=ema_batch)
        # in training mode like the student, or it would not see the student's dropout mask
        self.target = copy.deepcopy(self.denoiser).requires_grad_(False) if target_rate > 0 else None
        self.image_shape, self.num_classes, self.total_images = tuple(image_shape), num_classes, total_images
        self.teacher, self.paths, self.solver = Teacher(teacher), paths, solver
        self.distance, self.weight, self.target_rate = distance, weight, target_rate
        self.make_optimizer, self.lr_factor = optimizer, lr_factor
        self.schedules, self.seed = schedules, seed
        self.init_from = init_from or self.teacher.path
        self.images_seen = 0
        self.objective = compiled(self.loss_between, self.denoiser) if compile else self.loss_between

    @property
    def ema_denoiser(self) -> ConsistencyDenoiser:
        """The averaged denoiser that is evaluated."""
        return self.ema.evaluated

    @property
    def progress(self) -> float:
        """Position in the run, from 0 to 1."""
        return self.images_seen / self.total_images

    def draw(self, x0: Tensor, position: int | None = None) -> CDDraws:
        """The random numbers of a step, a function of the seed and of `position`, by default the images seen."""
        draws, sigma_range = step_draws(self, x0, position), (self.denoiser.sigma_min, self.denoiser.sigma_max)
        path = self.paths.path(draws.uniform(len(x0), "levels"), draws.shared("jump"), self.progress, *sigma_range)
        return CDDraws(draws.normal_like(x0, "noise"), path.float(), draws.stream_seed("dropout"))

    def loss_between(
        self, x_t: Tensor, x_s: Tensor, t: Tensor, s: Tensor, label: Tensor | None, dropout_seed: int
    ) -> Tensor:
        """The loss of each image (B,) at two points x_t, x_s of the teacher's trajectories."""
        with shared_dropout(dropout_seed, self.denoiser):
            student = self.denoiser(x_t, t, label)
        with shared_dropout(dropout_seed, self.denoiser), torch.no_grad():
            target = (self.denoiser if self.target is None else self.target)(x_s, s, label)
        return self.weight(t, s) * self.distance(student, target)

    def loss_at(self, x0: Tensor, label: Tensor | None, draws: CDDraws) -> Tensor:
        """The loss of each image (B,) at the given draws."""
        noise, path, seed = draws
        x_t = perturb(x0, noise, path[0])
        x_s = solve(self.solver, self.teacher, x_t, path, label)
        return self.objective(x_t, x_s, path[0], path[-1], label, seed)

    def loss(self, x0: Tensor, label: Tensor | None = None, position: int | None = None) -> Tensor:
        """The loss of each image (B,) at the draws of a step; x0 (B, C, H, W) in [-1, 1], label (B,) or None."""
        return self.loss_at(x0, label if self.num_classes else None, self.draw(x0, position))

    def training_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> StepOutput:
        x0, label = batch
        draws = self.draw(x0)
        loss = self.loss_at(x0, label if self.num_classes else None, draws)
        return {"loss": loss.mean(), "sigma": draws.path[0], "terms": {"consistency": loss.detach()}}

    def sample(self, noise: ImageNoise, steps: int = 1, label: Tensor | None = None) -> Tensor:
        """Generate (B, C, H, W) from the EMA weights by the schedule with `steps` evaluations."""
        sigmas = levels_for(self.schedules, steps)
        return multistep(self.ema_denoiser, sigmas[0] * noise(), sigmas, noise, label, self.denoiser.sigma_min)

    def validation_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> None:
        log_loss(self, "val/loss", batch, batch_idx)

    def test_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> None:
        """Nothing: the loss needs the teacher, the scores do not."""

    def setup(self, stage: str) -> None:
        if stage != "test":
            _ = self.teacher.denoise  # a missing one is told before the first step

    def on_fit_start(self) -> None:
        if self.init_from is not None and self.trainer.ckpt_path is None:  # not known before: `setup` is too early
            start_from(self.init_from, self.denoiser, self.ema, self.target)

    def update_averages(self, k: int, images: int | None = None) -> None:
        """Called after the k-th optimizer step, which took `images` images."""
        self.ema.update(self.denoiser, k, images)
        if self.target is not None:
            average_in(self.target, self.denoiser, self.target_rate)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return optimizer_and_schedule(self, self.denoiser.parameters(), self.make_optimizer, self.lr_factor)

    def configure_callbacks(self) -> list:
        return run_callbacks()
