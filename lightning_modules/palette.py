"""Palette: a diffusion model that is shown the damaged image (Saharia et al. 2022, arXiv 2111.05826), trained on pairs.

    y = A x0 (+ noise),   c = A^+ y                        the damaged image, further channels of the network's input
    L = lambda(t) || D(x0 + t z, t, c) - x0 ||^2           EDM's, as in `diffusion.py`

so D is E[x0 | x, y], and any sampler of a diffusion model draws from the posterior. It restores what it was trained
for.

Known bias (figures as in `tasks/few_step.py`, inpainting | pooling): none but the sampler's, DDPM .19 | .17 with 9 and
.067 | .061 with 19 evaluations, DDIM .095 | .084, .023 | .020 and with 79 .0015 | .0012, Heun .060 | .043 with 19.

Note: preconditioning, law of levels and weight are EDM's, as in all multi-step rows of this project; the paper's are
DDPM's (a network that gives the noise, 2000 levels). As there, the squared error and not the absolute one.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from diffusion.denoisers import ConditionalDenoiser
from diffusion.distances import SquaredL2
from diffusion.ema import EMA
from diffusion.levels import Levels
from diffusion.noise import perturb
from diffusion.ode_samplers import Sampler
from diffusion.rng import ImageNoise, shared_dropout
from diffusion.sde_samplers import DDPM
from diffusion.weightings import EDMWeight
from lightning_modules.paired import NetworkFactory, Operator, beside, damaged, keeping_known, refuse_sampling
from lightning_modules.run import (
    StepOutput,
    check_budget,
    compiled,
    log_loss,
    optimizer_and_schedule,
    run_callbacks,
    step_draws,
)


class PaletteDraws(NamedTuple):
    """What a step learns from beside x0: the damaged images, noise like x0, levels t (B,), the dropout mask's seed."""

    condition: Tensor
    noise: Tensor
    t: Tensor
    dropout_seed: int


class PaletteModule(LightningModule):
    """Conditional denoising score matching.

    Args:
        network: factory `(image_shape, num_classes, out_channels=C) -> nn.Module`, called with 2 C channels.
        image_shape: (C, H, W), from the datamodule.
        operator: what is done to the images, of `tasks/`.
        levels: law of the noise level, truncated to [sigma_min, sigma_max]; EDM's is LogNormal(-1.2, 1.2).
        total_images: length of the run in training images.
        restorer: the sampler; None for DDPM's ancestral one, as in the paper.
        keep_known: replace what is known in every estimate of x0.
        num_classes: 0 for an unconditional model, from the datamodule.
        optimizer: factory of the optimizer.
        lr_factor: factor of the learning rate as a function of the run's progress; None keeps it constant.
        sigma_data, sigma_min, sigma_max: as in `Denoiser`.
        ema_rates: averaging rates per step, the first is evaluated.
        ema_batch: images of the step that the rates are of, see `EMA`; None for this run's step, whatever its size.
        compile: run the loss through torch.compile as one graph; with dropout, the network.
        seed: of all random draws.
    """

    def __init__(
        self,
        network: NetworkFactory,
        image_shape: tuple[int, int, int],
        operator: Operator,
        levels: Levels,
        total_images: int,
        restorer: Sampler | None = None,
        keep_known: bool = False,
        num_classes: int = 0,
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
        self.save_hyperparameters()
        shown = beside(network, image_shape, num_classes)
        self.denoiser = ConditionalDenoiser(shown, sigma_data, sigma_min, sigma_max)
        self.ema = EMA(self.denoiser, ema_rates, batch=ema_batch)
        self.image_shape, self.num_classes, self.total_images = tuple(image_shape), num_classes, total_images
        self.operator, self.law, self.keep_known = operator, levels, keep_known
        self.weight, self.distance = EDMWeight(sigma_data), SquaredL2()
        self.restorer: Sampler = DDPM() if restorer is None else restorer
        self.make_optimizer, self.lr_factor, self.seed = optimizer, lr_factor, seed
        self.images_seen = 0
        self.objective = compiled(self.loss_at, self.denoiser) if compile else self.loss_at

    @property
    def ema_denoiser(self) -> ConditionalDenoiser:
        """The averaged denoiser that is evaluated."""
        return self.ema.evaluated

    @property
    def progress(self) -> float:
        """Position in the run, from 0 to 1."""
        return self.images_seen / self.total_images

    def draw(self, x0: Tensor, position: int | None = None) -> PaletteDraws:
        """The random numbers of a step, a function of the seed and of `position`, by default the images seen."""
        draws, denoiser = step_draws(self, x0, position), self.denoiser
        t = self.law.continuous(draws.uniform(len(x0), "levels"), denoiser.sigma_min, denoiser.sigma_max)
        condition = damaged(self.operator, x0, draws)
        return PaletteDraws(condition, draws.normal_like(x0, "noise"), t.float(), draws.stream_seed("dropout"))

    def loss_at(self, x0: Tensor, label: Tensor | None, draws: PaletteDraws) -> Tensor:
        """The loss of each image (B,) at the given draws."""
        condition, noise, t, seed = draws
        with shared_dropout(seed, self.denoiser):
            x0_hat = self.denoiser(perturb(x0, noise, t), t, label, condition)
        return self.weight(t) * self.distance(x0_hat, x0)

    def loss(self, x0: Tensor, label: Tensor | None = None, position: int | None = None) -> Tensor:
        """The loss of each image (B,) at the draws of a step; x0 (B, C, H, W) in [-1, 1], label (B,) or None."""
        return self.objective(x0, label if self.num_classes else None, self.draw(x0, position))

    def training_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> StepOutput:
        x0, label = batch
        draws = self.draw(x0)
        loss = self.objective(x0, label if self.num_classes else None, draws)
        return {"loss": loss.mean(), "sigma": draws.t, "terms": {"denoising": loss.detach()}}

    def levels(self, steps: int) -> list[float]:
        """The levels that `restore` visits, descending; ValueError for a number of steps that there is not."""
        return self.restorer.levels(steps, self.denoiser.sigma_min, self.denoiser.sigma_max)

    def restore(self, y: Tensor, noise: ImageNoise, steps: int, label: Tensor | None = None) -> Tensor:
        """Images (B, C, H, W) of measurements y, from the EMA weights with `steps` evaluations."""
        denoise = self.ema_denoiser.given(self.operator.pseudo_inverse(y))
        if self.keep_known:
            denoise = keeping_known(denoise, self.operator, y)
        return self.restorer.sample(denoise, noise, steps, label, self.denoiser.sigma_min, self.denoiser.sigma_max)

    def sample(self, noise: ImageNoise, steps: int = 1, label: Tensor | None = None) -> Tensor:
        """None: it is told what to restore."""
        refuse_sampling(self)

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
