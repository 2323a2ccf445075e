"""The diffusion model of EDM: the teacher of consistency distillation and the multi-step baseline.

    L = lambda(t) ||D(x0 + t z, t) - x0||^2,   ln t ~ N(-1.2, 1.2^2),   lambda(t) = (t^2 + s^2)/(t s)^2

Karras et al. 2022 (arXiv 2206.00364), eq. 2 and table 1; the mean over the elements of an image stands for the norm.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from diffusion.denoisers import Denoise, EDMDenoiser
from diffusion.distances import SquaredL2
from diffusion.ema import EMA
from diffusion.guidance import NO_CLASS, Guidance, Guided
from diffusion.levels import Levels
from diffusion.noise import perturb
from diffusion.ode_samplers import Heun, Sampler
from diffusion.rng import ImageNoise, shared_dropout
from diffusion.weightings import EDMWeight
from lightning_modules.run import (
    StepOutput,
    check_budget,
    compiled,
    log_loss,
    optimizer_and_schedule,
    run_callbacks,
    step_draws,
)


class DiffusionDraws(NamedTuple):
    """What is random in a step: noise like x0, levels t (B,), the dropout mask's seed, which images (B,) lose their
    label (None: no image does)."""

    noise: Tensor
    t: Tensor
    dropout_seed: int
    unlabelled: Tensor | None = None


class DiffusionModule(LightningModule):
    """Denoising score matching with EDM's preconditioning.

    Args:
        network: factory `(image_shape, num_classes) -> nn.Module`.
        image_shape: (C, H, W), from the datamodule.
        levels: law of the noise level, truncated to [sigma_min, sigma_max]; EDM's is LogNormal(-1.2, 1.2).
        total_images: length of the run in training images.
        num_classes: 0 for an unconditional model, from the datamodule.
        label_dropout: probability that an image is shown without its label, in [0, 1), so that the model can be guided;
            0.1 to 0.2 in the paper of classifier-free guidance (arXiv 2207.12598).
        sampler: what generates; None for EDM's deterministic Heun sampler.
        guidance: classifier-free guidance of what is generated; None for none.
        optimizer: factory of the optimizer.
        lr_factor: factor of the learning rate as a function of the run's progress; None keeps it constant.
        sigma_data, sigma_min, sigma_max: as in `EDMDenoiser`.
        ema_rates: averaging rates per step, the first is evaluated.
        ema_batch: images of the step that the rates are of, see `EMA`; None for this run's step, whatever its size.
        compile: run the loss through torch.compile as one graph; with dropout, the network.
        seed: of all random draws.

    Note: EDM's law of levels is not truncated; [0.002, 80] leaves out 3e-5 of it.
    """

    def __init__(
        self,
        network: Callable[[tuple[int, int, int], int], nn.Module],
        image_shape: tuple[int, int, int],
        levels: Levels,
        total_images: int,
        num_classes: int = 0,
        label_dropout: float = 0.0,
        sampler: Sampler | None = None,
        guidance: Guidance | None = None,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_factor: Callable[[float], float] | None = None,
        sigma_data: float = 0.5,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        ema_rates: Sequence[float] = (0.9999,),
        ema_batch: int | None = None,
        compile: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        check_budget(total_images)
        if not 0 <= label_dropout < 1:
            raise ValueError(f"label_dropout={label_dropout}: a probability in [0, 1) is needed")
        if label_dropout > 0 and not num_classes:
            raise ValueError(f"label_dropout={label_dropout}: the data have no classes")
        self.save_hyperparameters()
        self.denoiser = EDMDenoiser(network(image_shape, num_classes), sigma_data, sigma_min, sigma_max)
        self.ema = EMA(self.denoiser, ema_rates, batch=ema_batch)
        self.image_shape, self.num_classes, self.total_images = tuple(image_shape), num_classes, total_images
        self.levels, self.weight, self.distance = levels, EDMWeight(sigma_data), SquaredL2()
        self.label_dropout, self.sampler = label_dropout, Heun() if sampler is None else sampler
        self.guidance = guidance
        self.make_optimizer, self.lr_factor = optimizer, lr_factor
        self.seed = seed
        self.images_seen = 0
        self.objective = compiled(self.loss_at, self.denoiser) if compile else self.loss_at

    @property
    def ema_denoiser(self) -> EDMDenoiser:
        """The averaged denoiser that is evaluated."""
        return self.ema.evaluated

    @property
    def progress(self) -> float:
        """Position in the run, from 0 to 1."""
        return self.images_seen / self.total_images

    def draw(self, x0: Tensor, position: int | None = None) -> DiffusionDraws:
        """The random numbers of a step, a function of the seed and of `position`, by default the images seen."""
        draws = step_draws(self, x0, position)
        u = draws.uniform(len(x0), "levels")
        t = self.levels.continuous(u, self.denoiser.sigma_min, self.denoiser.sigma_max)
        unlabelled = draws.uniform(len(x0), "labels") < self.label_dropout if self.label_dropout else None
        return DiffusionDraws(draws.normal_like(x0, "noise"), t.float(), draws.stream_seed("dropout"), unlabelled)

    def loss_at(self, x0: Tensor, label: Tensor | None, draws: DiffusionDraws) -> Tensor:
        """The loss of each image (B,) at the given draws."""
        noise, t, seed, unlabelled = draws
        if label is not None and unlabelled is not None:
            label = label.masked_fill(unlabelled, NO_CLASS)
        with shared_dropout(seed, self.denoiser):
            x0_hat = self.denoiser(perturb(x0, noise, t), t, label)
        return self.weight(t) * self.distance(x0_hat, x0)

    def loss(self, x0: Tensor, label: Tensor | None = None, position: int | None = None) -> Tensor:
        """The loss of each image (B,) at the draws of a step; x0 (B, C, H, W) in [-1, 1], label (B,) or None."""
        return self.objective(x0, label if self.num_classes else None, self.draw(x0, position))

    def training_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> StepOutput:
        x0, label = batch
        draws = self.draw(x0)
        loss = self.objective(x0, label if self.num_classes else None, draws)
        return {"loss": loss.mean(), "sigma": draws.t, "terms": {"denoising": loss.detach()}}

    @property
    def guidance(self) -> Guidance | None:
        """Classifier-free guidance of what is generated.

        Raises:
            ValueError: on setting it, for a model that was never shown an image without its label.
        """
        return self._guidance

    @guidance.setter
    def guidance(self, guidance: Guidance | None) -> None:
        if guidance is not None and not self.label_dropout:
            why = "was trained with label_dropout=0" if self.num_classes else "has no classes"
            raise ValueError(f"guidance={guidance.weight}: this model {why}, so it cannot be guided")
        self._guidance = guidance

    def sample(self, noise: ImageNoise, steps: int = 35, label: Tensor | None = None) -> Tensor:
        """Generate (B, C, H, W) from the EMA weights with `steps` evaluations of the denoiser.

        Note: a guided evaluation is two of the network.
        """
        denoise: Denoise = self.ema_denoiser
        if self.guidance is not None:
            denoise = Guided(denoise, self.guidance)
        return self.sampler.sample(denoise, noise, steps, label, self.denoiser.sigma_min, self.denoiser.sigma_max)

    def validation_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> None:
        log_loss(self, "val/loss", batch, batch_idx)

    def test_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> None:
        log_loss(self, "test/loss", batch, batch_idx)

    def update_averages(self, k: int, images: int | None = None) -> None:
        """Called after the k-th optimizer step, which took `images` images."""
        self.ema.update(self.denoiser, k, images)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return optimizer_and_schedule(self, self.denoiser.parameters(), self.make_optimizer, self.lr_factor)

    def configure_callbacks(self) -> list:
        return run_callbacks()
