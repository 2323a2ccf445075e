"""Rectified flow, and reflow, which straightens it (Liu et al. 2022, arXiv 2209.03003).

    x_a = (1 - a) x0 + a z                               a uniform: a straight path from image (a = 0) to noise (a = 1)
    L   = || (z - x0) - v(x_a, a) ||^2                   eq. 1; their time is 1 - a, their velocity -v

In this project's coordinates x = x0 + sigma z at sigma = a/(1 - a) is x_a (1 + sigma), and with v as in `FlowDenoiser`

    L   = ((1 + sigma)/sigma)^2 || D(x, sigma) - x0 ||^2

so it is a diffusion model in all but the law of levels, the weight and the preconditioning: any sampler takes it, and a
step of Euler's method in a is one in sigma.

| | coupling of z and x0 |
|---|---|
| 1-rectified flow | independent: `pairs` None |
| k-rectified flow (reflow) | z and what the (k - 1)-rectified flow makes of it: `teacher` its checkpoint, and `pairs` |
| distillation | the same pairs, one step: `KDModule` with `FlowDenoiser` |

Note: a lies in [a_min, a_max] = sigma/(1 + sigma) of sigma_min, sigma_max, by default [0.002, 0.988]; officially in
[0, 0.999]. The mean over the elements of an image stands for the norm.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from diffusion.denoisers import Denoise, FlowDenoiser
from diffusion.distances import SquaredL2
from diffusion.ema import EMA
from diffusion.levels import Levels, UniformFlowTime
from diffusion.noise import perturb
from diffusion.ode_samplers import Euler, Sampler
from diffusion.rng import ImageNoise, shared_dropout
from diffusion.straight_paths import FlowGrid
from diffusion.weightings import FlowWeight
from lightning_modules.checkpoint import start_from
from lightning_modules.pairs_file import Pairs
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
from lightning_modules.teacher_pairs import PairSource, TeacherODE, TeacherPairs


class FlowDraws(NamedTuple):
    """What a step learns from: the ends of its paths, the levels t (B,) on them, the seed of the dropout mask."""

    pairs: Pairs
    t: Tensor
    dropout_seed: int


class RectifiedFlowModule(LightningModule):
    """Flow matching along straight paths, from data or from the pairs of a previous flow.

    Args:
        network: factory `(image_shape, num_classes) -> nn.Module`; it gives the velocity.
        image_shape: (C, H, W), from the datamodule.
        total_images: length of the run in training images.
        levels: law of the level, truncated to [sigma_min, sigma_max]; None for `UniformFlowTime`.
        teacher: for reflow, checkpoint of the previous flow, which training starts from; in Python also any denoiser.
        pairs: for reflow, how the previous flow's pairs are made.
        sampler: what generates; None for Euler's method in equal steps of a.
        num_classes: 0 for an unconditional model, from the datamodule.
        optimizer: factory of the optimizer.
        lr_factor: factor of the learning rate as a function of the run's progress; None keeps it constant.
        sigma_min, sigma_max: range of the levels.
        ema_rates: averaging rates per step, the first is evaluated.
        ema_batch: images of the step that the rates are of, see `EMA`; None for this run's step, whatever its size.
        init_from: checkpoint of a flow that training starts from in the place of the teacher.
        compile: run the loss through torch.compile as one graph; with dropout, the network. The teacher is left out.
        seed: of all random draws.
    """

    def __init__(
        self,
        network: Callable[[tuple[int, int, int], int], nn.Module],
        image_shape: tuple[int, int, int],
        total_images: int,
        levels: Levels | None = None,
        teacher: str | Denoise | None = None,
        pairs: TeacherPairs | None = None,
        sampler: Sampler | None = None,
        num_classes: int = 0,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_factor: Callable[[float], float] | None = None,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        ema_rates: Sequence[float] = (0.9999,),
        ema_batch: int | None = None,
        init_from: str | None = None,
        compile: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        check_budget(total_images)
        if (teacher is None) != (pairs is None):
            raise ValueError(f"teacher={teacher}, pairs={pairs}: reflow needs both, a first rectified flow neither")
        self.save_hyperparameters(ignore=() if teacher is None or isinstance(teacher, str) else "teacher")
        self.denoiser = FlowDenoiser(network(image_shape, num_classes), sigma_min=sigma_min, sigma_max=sigma_max)
        self.ema = EMA(self.denoiser, ema_rates, batch=ema_batch)
        self.image_shape, self.num_classes, self.total_images = tuple(image_shape), num_classes, total_images
        self.levels: Levels = UniformFlowTime() if levels is None else levels
        self.weight, self.distance = FlowWeight(), SquaredL2()
        self.source: PairSource | None = None
        if teacher is not None and pairs is not None:
            ode = TeacherODE(Teacher(teacher), image_shape, num_classes, sigma_min, sigma_max)
            self.source = PairSource(pairs, ode)
        self.sampler: Sampler = Euler(FlowGrid()) if sampler is None else sampler
        self.make_optimizer, self.lr_factor, self.seed = optimizer, lr_factor, seed
        self.init_from = init_from or (self.source.ode.teacher.path if self.source is not None else None)
        self.images_seen = 0
        self.objective: Callable[..., Tensor] = compiled(self.loss_of, self.denoiser) if compile else self.loss_of

    @property
    def ema_denoiser(self) -> FlowDenoiser:
        """The averaged denoiser that is evaluated."""
        return self.ema.evaluated

    @property
    def progress(self) -> float:
        """Position in the run, from 0 to 1."""
        return self.images_seen / self.total_images

    def draw(self, x0: Tensor, label: Tensor | None = None, position: int | None = None) -> FlowDraws:
        """The random draws of a step, a function of the seed and of `position`, by default the images seen.

        With a `position`, as in validation, a previous flow's pairs are solved anew: the model has not seen them.
        """
        draws, label = step_draws(self, x0, position), label if self.num_classes else None
        t = self.levels.continuous(draws.uniform(len(x0), "levels"), self.denoiser.sigma_min, self.denoiser.sigma_max)
        if self.source is None:
            pairs = Pairs(draws.normal_like(x0, "noise"), x0, label)
        else:
            pairs = self.source.draw(draws, x0, label, fresh=position is not None)
        return FlowDraws(pairs, t.float(), draws.stream_seed("dropout"))

    def loss_of(self, noise: Tensor, x0: Tensor, label: Tensor | None, t: Tensor, dropout_seed: int) -> Tensor:
        """The loss of each path (B,) at its level t (B,)."""
        with shared_dropout(dropout_seed, self.denoiser):
            x0_hat = self.denoiser(perturb(x0, noise, t), t, label)
        return self.weight(t) * self.distance(x0_hat, x0)

    def loss(self, x0: Tensor, label: Tensor | None = None, position: int | None = None) -> Tensor:
        """The loss of each image (B,) at the draws of a step; x0 (B, C, H, W) in [-1, 1], label (B,) or None."""
        draws = self.draw(x0, label, position)
        return self.objective(*draws.pairs, draws.t, draws.dropout_seed)

    def training_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> StepOutput:
        draws = self.draw(*batch)
        loss = self.objective(*draws.pairs, draws.t, draws.dropout_seed)
        return {"loss": loss.mean(), "sigma": draws.t, "terms": {"velocity": loss.detach()}}

    def sample(self, noise: ImageNoise, steps: int = 1, label: Tensor | None = None) -> Tensor:
        """Generate (B, C, H, W) from the EMA weights by the sampler with `steps` evaluations."""
        low, high = self.denoiser.sigma_min, self.denoiser.sigma_max
        return self.sampler.sample(self.ema_denoiser, noise, steps, label, low, high)

    def validation_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> None:
        log_loss(self, "val/loss", batch, batch_idx)

    def test_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> None:
        """Nothing for reflow, whose loss needs the teacher; the scores do not."""
        if self.source is None:
            log_loss(self, "test/loss", batch, batch_idx)

    def prepare_data(self) -> None:
        """Make the pairs on one process, while Lightning lets the others wait however long it takes."""
        if self.trainer.state.fn == "fit" and self.source is not None:
            self.source.open(self.trainer.strategy.root_device)

    def setup(self, stage: str) -> None:
        if stage != "test" and self.source is not None:
            _ = self.source.ode.teacher.denoise  # a missing one is told before the first step
            if stage == "fit":
                self.source.open(self.trainer.strategy.root_device)

    def on_fit_start(self) -> None:
        if self.init_from is not None and self.trainer.ckpt_path is None:  # not known before: `setup` is too early
            start_from(self.init_from, self.denoiser, self.ema)

    def update_averages(self, k: int, images: int | None = None) -> None:
        """Called after the k-th optimizer step, which took `images` images."""
        self.ema.update(self.denoiser, k, images)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return optimizer_and_schedule(self, self.denoiser.parameters(), self.make_optimizer, self.lr_factor)

    def configure_callbacks(self) -> list:
        return run_callbacks()
