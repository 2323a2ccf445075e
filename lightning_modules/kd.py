"""KD: one step that does what a teacher's solver does in many (Luhman & Luhman 2021, arXiv 2101.02388).

    x0 = Solve_phi(sigma_max z, sigma_max -> 0)          the teacher phi's deterministic solver, no gradient
    L  = d( D(sigma_max z, sigma_max), x0 )

On the pairs of a rectified flow this is that flow's distillation (Liu et al. 2022, arXiv 2209.03003, sec. 2.2): with
`FlowDenoiser` and d = `SquaredL2`, D is z - v(z) and L is ||(z - x0) - v(z)||^2, but for two details. The official code
distils at a = 1 - eps = 0.999 on the path, (1 - eps) z + eps x0, which has a trace of the answer that generation lacks;
ours is what generation starts from. And ours is a_max (z - v(a_max z)), a_max = sigma_max/(1 + sigma_max).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from diffusion.denoisers import Denoise, Denoiser, EDMDenoiser
from diffusion.distances import SquaredL2
from diffusion.ema import EMA
from diffusion.rng import ImageNoise, shared_dropout
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


class KDDraws(NamedTuple):
    """What is random in a step: the pairs, and the seed of the dropout mask."""

    pairs: Pairs
    dropout_seed: int


class KDModule(LightningModule):
    """Knowledge distillation of a sampler into one evaluation.

    The student is the teacher's own parametrisation at sigma_max: it starts exactly at the teacher, and at
    sigma_max all parametrisations are nearly the network times a constant (`ConsistencyDenoiser` differs by 1e-4).

    Args:
        network: factory `(image_shape, num_classes) -> nn.Module`.
        image_shape: (C, H, W), from the datamodule.
        teacher: checkpoint of the model to distil, which the student starts from; in Python also any denoiser.
        pairs: how its pairs are made.
        total_images: length of the run in training images.
        distance: d, images (B, ...), (B, ...) -> (B,); None for `SquaredL2`.
        denoiser: the teacher's class of denoiser: `EDMDenoiser`, or `FlowDenoiser` for a rectified flow.
        num_classes: 0 for an unconditional model, from the datamodule.
        optimizer: factory of the optimizer.
        lr_factor: factor of the learning rate as a function of the run's progress; None keeps it constant.
        sigma_data, sigma_min, sigma_max: as in `Denoiser`; pairs start at sigma_max.
        ema_rates: averaging rates per step, the first is evaluated.
        ema_batch: images of the step that the rates are of, see `EMA`; None for this run's step, whatever its size.
        init_from: checkpoint that training starts from in the place of the teacher.
        compile: run the loss through torch.compile as one graph; with dropout, the network. The teacher is left out.
        seed: of all random draws.
    """

    def __init__(
        self,
        network: Callable[[tuple[int, int, int], int], nn.Module],
        image_shape: tuple[int, int, int],
        teacher: str | Denoise,
        pairs: TeacherPairs,
        total_images: int,
        distance: Callable[[Tensor, Tensor], Tensor] | None = None,
        denoiser: Callable[[nn.Module, float, float, float], Denoiser] = EDMDenoiser,
        num_classes: int = 0,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_factor: Callable[[float], float] | None = None,
        sigma_data: float = 0.5,
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
        self.save_hyperparameters(ignore=() if isinstance(teacher, str) else "teacher")
        self.denoiser = denoiser(network(image_shape, num_classes), sigma_data, sigma_min, sigma_max)
        self.ema = EMA(self.denoiser, ema_rates, batch=ema_batch)
        self.image_shape, self.num_classes, self.total_images = tuple(image_shape), num_classes, total_images
        self.source = PairSource(pairs, TeacherODE(Teacher(teacher), image_shape, num_classes, sigma_min, sigma_max))
        self.distance = SquaredL2() if distance is None else distance
        self.make_optimizer, self.lr_factor, self.seed = optimizer, lr_factor, seed
        self.init_from = init_from or self.source.ode.teacher.path
        self.images_seen = 0
        self.objective: Callable[..., Tensor] = compiled(self.loss_of, self.denoiser) if compile else self.loss_of

    @property
    def ema_denoiser(self) -> Any:
        """The averaged denoiser that is evaluated."""
        return self.ema.evaluated

    @property
    def progress(self) -> float:
        """Position in the run, from 0 to 1."""
        return self.images_seen / self.total_images

    def draw(self, x0: Tensor, label: Tensor | None = None, position: int | None = None) -> KDDraws:
        """The random draws of a step, a function of the seed and of `position`, by default the images seen.

        With a `position`, as in validation, pairs are solved anew: the student has not seen them.
        """
        draws, label = step_draws(self, x0, position), label if self.num_classes else None
        pairs = self.source.draw(draws, x0, label, fresh=position is not None)
        return KDDraws(pairs, draws.stream_seed("dropout"))

    def loss_of(self, noise: Tensor, x0: Tensor, label: Tensor | None, dropout_seed: int) -> Tensor:
        """The loss of each pair (B,)."""
        with shared_dropout(dropout_seed, self.denoiser):
            student = self.denoiser(self.denoiser.sigma_max * noise, self.denoiser.sigma_max, label)
        return self.distance(student, x0)

    def loss(self, x0: Tensor, label: Tensor | None = None, position: int | None = None) -> Tensor:
        """The loss of each image (B,) at the draws of a step; x0 (B, C, H, W) in [-1, 1], label (B,) or None."""
        draws = self.draw(x0, label, position)
        return self.objective(*draws.pairs, draws.dropout_seed)

    def training_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> StepOutput:
        loss = self.loss(*batch)
        sigma = torch.full_like(loss, self.denoiser.sigma_max, requires_grad=False)
        return {"loss": loss.mean(), "sigma": sigma, "terms": {"regression": loss.detach()}}

    def sample(self, noise: ImageNoise, steps: int = 1, label: Tensor | None = None) -> Tensor:
        """Generate (B, C, H, W) from the EMA weights by the only evaluation there is."""
        if steps != 1:
            raise ValueError(f"steps={steps}: knowledge distillation makes a generator of 1 evaluation")
        return self.ema_denoiser(self.denoiser.sigma_max * noise(), self.denoiser.sigma_max, label)

    def validation_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> None:
        log_loss(self, "val/loss", batch, batch_idx)

    def test_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> None:
        """Nothing: the loss needs the teacher, the scores do not."""

    def prepare_data(self) -> None:
        """Make the pairs on one process, while Lightning lets the others wait however long it takes."""
        if self.trainer.state.fn == "fit":
            self.source.open(self.trainer.strategy.root_device)

    def setup(self, stage: str) -> None:
        if stage != "test":
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
