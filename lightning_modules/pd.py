"""PD: progressive distillation of a diffusion model (Salimans & Ho 2022, arXiv 2202.00512, algorithm 2).

In the stage of N sampling steps the student learns to make one DDIM step where its teacher makes two:

    x_t = x0 + t z                                                  t, m, s = t_i, t_{i+1/2}, t_{i+1} of a grid of N
    x_m, x_s = two DDIM steps of the teacher, t -> m -> s           (DDIM is Euler's method in these coordinates)
    x~ = x_t - t (x_s - x_t)/(s - t)                                with x~, one DDIM step t -> s lands on x_s
    L = max(1/t^2, 1) ||D(x_t, t) - x~||^2

Then the student becomes the teacher, and N is halved. The grid is Karras's, as in openai/consistency_models.

A stage hands over the weights that are evaluated: the first average. The published recipes hand over the same, at an
averaging rate of 0 (google-research/diffusion_distillation and openai/consistency_models_cifar10: `ema_params` and
`params_ema`, with decay 0), so that these are the student's current weights, which openai/consistency_models takes.
Each stage begins with fresh averages and a fresh optimizer, and the learning rate's schedule begins anew.
"""

import copy
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from diffusion.denoisers import Denoise, EDMDenoiser
from diffusion.ema import EMA
from diffusion.noise import karras_grid, perturb
from diffusion.rng import ImageNoise, shared_dropout
from diffusion.solvers import euler_step, solve
from diffusion.stages import Halving, halved_intervals, two_step_target
from lightning_modules.checkpoint import start_from
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


class PDDraws(NamedTuple):
    """What is random in a step: noise like x0, the levels t > m > s (3, B), the seed of the dropout mask."""

    noise: Tensor
    path: Tensor
    dropout_seed: int


class PDModule(LightningModule):
    """Progressive distillation: all stages in one run.

    Args:
        network: factory `(image_shape, num_classes) -> nn.Module`.
        image_shape: (C, H, W), from the datamodule.
        teacher: checkpoint of the diffusion model, the first stage's teacher, which the student starts from; in Python
            also any denoiser.
        distance: d, images (B, ...), (B, ...) -> (B,); the method's is `SquaredL2`.
        weight: lambda(t); the method's is `TruncatedSNR`.
        total_images: length of the run, all stages together, in training images.
        start_steps, end_steps, last_share: the stages, see `diffusion.stages.Halving`.
        num_classes: 0 for an unconditional model, from the datamodule.
        optimizer: factory of the optimizer, which every stage begins anew.
        lr_factor: factor of the learning rate as a function of the stage's progress; None keeps it constant.
        sigma_data, sigma_min, sigma_max: as in `EDMDenoiser`; samples end at sigma_min.
        rho: curvature of the grid of levels.
        ema_rates: averaging rates per step, the first is evaluated and handed over; [0.0] for the published recipes.
        ema_batch: images of the step that the rates are of, see `EMA`; None for this run's step, whatever its size.
        init_from: checkpoint that training starts from in the place of the teacher.
        compile: run the loss through torch.compile as one graph; with dropout, the network. The teacher is left out.
        seed: of all random draws.

    Note: in the first stage the teacher is read from its path; after it, the stage's teacher is in the checkpoint.
    A finished run cannot be made longer but within its last stage (to 1.4 times its length with the default stages):
    stages are shares of total_images, and in a longer run the images seen end in an earlier stage, of which neither
    the weights nor the teacher are left.
    """

    def __init__(
        self,
        network: Callable[[tuple[int, int, int], int], nn.Module],
        image_shape: tuple[int, int, int],
        teacher: str | Denoise,
        distance: Callable[[Tensor, Tensor], Tensor],
        weight: Callable[[Tensor], Tensor],
        total_images: int,
        start_steps: int = 16,
        end_steps: int = 1,
        last_share: float = 2.0,
        num_classes: int = 0,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_factor: Callable[[float], float] | None = None,
        sigma_data: float = 0.5,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float = 7.0,
        ema_rates: Sequence[float] = (0.0,),
        ema_batch: int | None = None,
        init_from: str | None = None,
        compile: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        check_budget(total_images)
        self.stages = Halving(start_steps, end_steps, last_share)
        self.save_hyperparameters(ignore=() if isinstance(teacher, str) else "teacher")
        self.denoiser = EDMDenoiser(network(image_shape, num_classes), sigma_data, sigma_min, sigma_max)
        self.ema = EMA(self.denoiser, ema_rates, batch=ema_batch)
        self.stage_teacher = copy.deepcopy(self.denoiser).eval().requires_grad_(False)
        self.stage, self.stage_start = 0, 0
        """The stage that the weights are in, counted from 0, and the images seen at its beginning."""
        self.image_shape, self.num_classes, self.total_images = tuple(image_shape), num_classes, total_images
        self.teacher, self.distance, self.weight, self.rho = Teacher(teacher), distance, weight, rho
        self.make_optimizer, self.lr_factor = optimizer, lr_factor
        self.init_from = init_from or self.teacher.path
        self.seed = seed
        self.images_seen = 0
        self.objective = compiled(self.loss_against, self.denoiser) if compile else self.loss_against

    @property
    def ema_denoiser(self) -> EDMDenoiser:
        """The averaged denoiser that is evaluated, and handed over at the end of a stage."""
        return self.ema.evaluated

    @property
    def progress(self) -> float:
        """Position in the run, from 0 to 1."""
        return self.images_seen / self.total_images

    @property
    def num_steps(self) -> int:
        """N of the stage that the weights are in."""
        return self.stages.steps[self.stage]

    def train(self, mode: bool = True) -> "PDModule":
        """Train the student; its teacher stays in evaluation mode."""
        super().train(mode)
        self.stage_teacher.eval()
        return self

    def draw(self, x0: Tensor, position: int | None = None) -> PDDraws:
        """The random numbers of a step, a function of the seed and of `position`, by default the images seen."""
        draws, sigma_range = step_draws(self, x0, position), (self.denoiser.sigma_min, self.denoiser.sigma_max)
        path = halved_intervals(draws.uniform(len(x0), "levels"), self.num_steps, *sigma_range, self.rho)
        return PDDraws(draws.normal_like(x0, "noise"), path.float(), draws.stream_seed("dropout"))

    def loss_against(self, x_t: Tensor, target: Tensor, t: Tensor, label: Tensor | None, dropout_seed: int) -> Tensor:
        """The loss of each image (B,) at x_t, against the estimate of x0 that it should make."""
        with shared_dropout(dropout_seed, self.denoiser):
            return self.weight(t) * self.distance(self.denoiser(x_t, t, label), target)

    def loss_at(self, x0: Tensor, label: Tensor | None, draws: PDDraws) -> Tensor:
        """The loss of each image (B,) at the given draws."""
        noise, path, seed = draws
        x_t = perturb(x0, noise, path[0])
        target = two_step_target(self.stage_teacher if self.stage else self.teacher, x_t, path, label)
        return self.objective(x_t, target, path[0], label, seed)

    def loss(self, x0: Tensor, label: Tensor | None = None, position: int | None = None) -> Tensor:
        """The loss of each image (B,) at the draws of a step; x0 (B, C, H, W) in [-1, 1], label (B,) or None."""
        return self.loss_at(x0, label if self.num_classes else None, self.draw(x0, position))

    def training_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> StepOutput:
        x0, label = batch
        draws = self.draw(x0)
        loss = self.loss_at(x0, label if self.num_classes else None, draws)
        return {"loss": loss.mean(), "sigma": draws.path[0], "terms": {"distillation": loss.detach()}}

    def sample(self, noise: ImageNoise, steps: int = 1, label: Tensor | None = None) -> Tensor:
        """Generate (B, C, H, W) at sigma_min from the EMA weights by `steps` DDIM steps.

        Args:
            noise: of the start at sigma_max.
            steps: end_steps, ..., N, a power of two. At the end of a run that is end_steps alone. During a stage the
                grids of fewer steps lie in the stage's and so preview the stages to come; the levels of more steps have
                been out of training since their stage ended.
            label: (B,) or None.
        """
        offered = [n for n in self.stages.steps if n <= self.num_steps]
        if steps not in offered:
            raise ValueError(f"steps={steps}: these weights, of the stage of N = {self.num_steps}, take {offered}")
        x = self.denoiser.sigma_max * noise()
        grid = karras_grid(steps, self.denoiser.sigma_min, self.denoiser.sigma_max, self.rho).flip(0)
        return solve(euler_step, self.ema_denoiser, x, grid.to(x)[:, None].expand(-1, len(x)), label)

    def due_stage(self) -> int:
        """The stage of the run's progress: the weights' one or the next.

        Raises:
            ValueError: it is another one.
        """
        due = self.stages.index(self.progress)
        if due not in (self.stage, self.stage + 1):
            raise ValueError(
                f"total_images={self.total_images}: {self.images_seen} images into such a run is the stage of "
                f"{self.stages.steps[due]} steps, and these weights are in that of {self.num_steps}; "
                f"a stage follows the one of twice as many, and has at least one training step"
            )
        return due

    def check_stages(self, images: int) -> None:
        """See that training steps of `images` images each, from here to the run's end, come to every stage left.

        Raises:
            ValueError: a stage would pass between two steps, or the progress is in no stage that can follow now.
        """
        starts = range(self.images_seen, self.total_images, images)

        def stage_at(seen: int) -> int:
            return self.stages.index(seen / self.total_images)

        for stage in range(self.due_stage() + 1, len(self.stages.steps)):
            first = bisect_left(starts, stage, key=stage_at)
            if first == len(starts) or stage_at(starts[first]) != stage:
                shortest = min(end - start for start, end in pairwise(self.stages.bounds))
                raise ValueError(
                    f"total_images={self.total_images}: at {images} images a step, no step falls to the stage of "
                    f"{self.stages.steps[stage]} sampling steps; {math.ceil(images / shortest - 1e-6)} images suffice"
                )

    def advance(self, optimizers: Iterable[torch.optim.Optimizer] = ()) -> bool:
        """Begin the next stage if the run's progress is there: before a training step, whether it began a stage.

        The weights that are evaluated become the teacher and the student's start; averages and optimizers begin anew.

        Raises:
            ValueError: the progress is in a stage that does not follow the weights' one.
        """
        due = self.due_stage()
        if due == self.stage:
            return False
        result = self.ema_denoiser.state_dict()
        for model in (self.stage_teacher, self.denoiser):
            model.load_state_dict(result)
        self.ema.reset(self.denoiser)
        for optimizer in optimizers:
            optimizer.state.clear()
        self.stage, self.stage_start = due, self.images_seen
        return True

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Where a stage begins: a checkpoint of the images before is of the stage before, and resumes to this line."""
        # gradients held over in an accumulation are of the old stage
        if batch_idx % self.trainer.accumulate_grad_batches == 0 and self.advance(self.trainer.optimizers):
            schedule: Any = self.lr_schedulers()
            if schedule is not None:
                schedule.step()

    def validation_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> None:
        log_loss(self, "val/loss", batch, batch_idx)

    def test_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> None:
        """Nothing: the loss needs the teacher, the scores do not."""

    def on_fit_start(self) -> None:
        """Start from the teacher, unless the run resumes: only now is a checkpoint loaded, and `setup` cannot know."""
        batch_size = getattr(getattr(self.trainer, "datamodule", None), "batch_size", None)  # of the global batch
        if batch_size is not None:
            self.check_stages(batch_size * self.trainer.accumulate_grad_batches)
        if self.stage == 0:
            _ = self.teacher.denoise  # a missing one is told before the first step
        if self.init_from is not None and self.trainer.ckpt_path is None:
            start_from(self.init_from, self.denoiser, self.ema)

    def get_extra_state(self) -> dict[str, int]:
        """What the state_dict holds beside weights."""
        return {"stage": self.stage, "stage_start": self.stage_start}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """The inverse of `get_extra_state`."""
        self.stage, self.stage_start = state["stage"], state["stage_start"]

    def update_averages(self, k: int, images: int | None = None) -> None:
        """Called after the k-th optimizer step, which took `images` images."""
        self.ema.update(self.denoiser, k - (self.stage_start // images if images else 0), images)

    def lr_in_stage(self, progress: float) -> float:
        """The factor of the learning rate at the progress of the run, by that of the stage."""
        return 1.0 if self.lr_factor is None else self.lr_factor(self.stages.within(self.stage, progress))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        factor = None if self.lr_factor is None else self.lr_in_stage
        return optimizer_and_schedule(self, self.denoiser.parameters(), self.make_optimizer, factor)

    def configure_callbacks(self) -> list:
        return run_callbacks()
