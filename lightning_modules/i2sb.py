"""I2SB: a bridge from damaged to clean images (Liu et al. 2023, arXiv 2302.05872), trained on pairs.

    y = A x0 (+ noise),   x1 = A^+ y + fill (I - P) z'                  the damaged image, filled with noise
    x = x0 + (sigma/T)^2 (x1 - x0) + sigma sqrt(1 - (sigma/T)^2) z      `diffusion/bridge.py`, sigma of its schedule
    L = || F(x, sigma) - (x - x0)/sigma ||^2 = || D(x, sigma) - x0 ||^2 / sigma^2                       eq. 12

The mean over the elements of an image stands for the norm. It restores by `follow_bridge`, from x1 at sigma = T. The
settings of the released code, by task:

| task | schedule | ot_ode | fill | condition |
|---|---|---|---|---|
| super-resolution, JPEG | BridgeSchedule(beta_max=0.3) | no | 0 | no |
| blur | BridgeSchedule(beta_max=1) | yes | 0 | no |
| inpainting | BridgeSchedule(beta_max=1) | yes | 1 | no; what is known is kept |

Known bias (W2^2 from the posterior over the trace of its covariance as in `tasks/few_step.py`, one measurement, with
the exact D and 4, 10 and 40 evaluations; `tests/test_paired_oracle.py`):

    told x1 (condition)        inpainting .16, .052, .009    pooling .14, .036, .004      beta_max = 1; to the posterior
    inpainting, fill = 1       2.9, 4.3, 5.4 (ot_ode 1.1, 1.2, 1.3); what is known kept: .12, .10, .12 (.22, .13, .11)
    pooling, beta_max = 0.3    .20, .094, .073

A bridge that is not told its end keeps the marginal laws and not the pairs (De Bortoli et al. 2023, arXiv 2311.06978).
With one evaluation all give the posterior's mean (1 in this measure); so does ot_ode with condition, whatever their
number: the two are not to be combined.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from diffusion.bridge import BridgeSchedule, bridge_point, follow_bridge
from diffusion.denoisers import BridgeDenoiser
from diffusion.distances import SquaredL2
from diffusion.ema import EMA
from diffusion.noise import expand
from diffusion.rng import ImageNoise, shared_dropout
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


class BridgeDraws(NamedTuple):
    """What a step learns from beside x0: damaged images x1, noise like x0, levels t (B,), the dropout mask's seed."""

    x1: Tensor
    noise: Tensor
    t: Tensor
    dropout_seed: int


class I2SBModule(LightningModule):
    """Image-to-image Schroedinger bridge.

    Args:
        network: factory `(image_shape, num_classes, out_channels=C) -> nn.Module`, without the last for one that is
            shown no condition.
        image_shape: (C, H, W), from the datamodule.
        operator: what is done to the images, of `tasks/`.
        total_images: length of the run in training images.
        schedule: levels of the bridge; `BridgeSchedule()` by default.
        ot_ode: the bridge without its noise, in training and in sampling.
        fill: standard deviation of the noise that fills what the operator loses, >= 0.
        condition: show the network x1 beside x.
        keep_known: replace what is known in every estimate of x0.
        num_classes: 0 for an unconditional model, from the datamodule.
        optimizer: factory of the optimizer.
        lr_factor: factor of the learning rate as a function of the run's progress; None keeps it constant.
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
        total_images: int,
        schedule: BridgeSchedule = BridgeSchedule(),  # noqa: B008 (frozen)
        ot_ode: bool = False,
        fill: float = 0.0,
        condition: bool = False,
        keep_known: bool = False,
        num_classes: int = 0,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_factor: Callable[[float], float] | None = None,
        ema_rates: Sequence[float] = (0.9999,),
        ema_batch: int | None = None,
        compile: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        check_budget(total_images)
        if not 0 <= fill < float("inf"):
            raise ValueError(f"fill={fill}: a standard deviation is a number >= 0")
        self.save_hyperparameters()
        channels = image_shape[0]
        shown = (
            beside(network, image_shape, num_classes)
            if condition
            else network(image_shape, num_classes, out_channels=channels)
        )
        self.denoiser = BridgeDenoiser(shown, sigma_min=schedule.sigma_min, sigma_max=schedule.sigma_max)
        self.ema = EMA(self.denoiser, ema_rates, batch=ema_batch)
        self.image_shape, self.num_classes, self.total_images = tuple(image_shape), num_classes, total_images
        self.operator, self.schedule, self.distance = operator, schedule, SquaredL2()
        self.ot_ode, self.fill, self.condition, self.keep_known = ot_ode, fill, condition, keep_known
        self.make_optimizer, self.lr_factor, self.seed = optimizer, lr_factor, seed
        self.images_seen = 0
        self.objective = compiled(self.loss_at, self.denoiser) if compile else self.loss_at

    @property
    def ema_denoiser(self) -> BridgeDenoiser:
        """The averaged denoiser that is evaluated."""
        return self.ema.evaluated

    @property
    def progress(self) -> float:
        """Position in the run, from 0 to 1."""
        return self.images_seen / self.total_images

    def filled(self, image: Tensor, noise: Callable[[], Tensor]) -> Tensor:
        """x1 = image + fill (I - P) z of images A^+ y (B, C, H, W); `noise` is called once where fill > 0."""
        if self.fill == 0:
            return image
        return image + self.fill * self.operator.unknown_part(noise())

    def draw(self, x0: Tensor, position: int | None = None) -> BridgeDraws:
        """The random numbers of a step, a function of the seed and of `position`, by default the images seen."""
        draws = step_draws(self, x0, position)
        x1 = self.filled(damaged(self.operator, x0, draws), lambda: draws.normal_like(x0, "fill"))
        noise = torch.zeros_like(x0) if self.ot_ode else draws.normal_like(x0, "noise")
        t = self.schedule.draw(draws.uniform(len(x0), "levels"))
        return BridgeDraws(x1, noise, t.float(), draws.stream_seed("dropout"))

    def loss_at(self, x0: Tensor, label: Tensor | None, draws: BridgeDraws) -> Tensor:
        """The loss of each image (B,) at the given draws."""
        x1, noise, t, seed = draws
        x = bridge_point(x0, x1, noise, t, self.denoiser.sigma_max)
        with shared_dropout(seed, self.denoiser):
            x0_hat = self.denoiser(x, t, label, x1 if self.condition else None)
        scale = expand(t, x0)
        return self.distance(x0_hat / scale, x0 / scale)

    def loss(self, x0: Tensor, label: Tensor | None = None, position: int | None = None) -> Tensor:
        """The loss of each image (B,) at the draws of a step; x0 (B, C, H, W) in [-1, 1], label (B,) or None."""
        return self.objective(x0, label if self.num_classes else None, self.draw(x0, position))

    def training_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> StepOutput:
        x0, label = batch
        draws = self.draw(x0)
        loss = self.objective(x0, label if self.num_classes else None, draws)
        return {"loss": loss.mean(), "sigma": draws.t, "terms": {"bridge": loss.detach()}}

    def levels(self, steps: int) -> list[float]:
        """The levels that `restore` evaluates, descending; ValueError for a number of steps that there is not."""
        return self.schedule.levels(steps)[:-1]

    def restore(self, y: Tensor, noise: ImageNoise, steps: int, label: Tensor | None = None) -> Tensor:
        """Images (B, C, H, W) of measurements y, from the EMA weights with `steps` evaluations."""
        x1 = self.filled(self.operator.pseudo_inverse(y), noise)
        denoise = self.ema_denoiser.given(x1 if self.condition else None)
        if self.keep_known:
            denoise = keeping_known(denoise, self.operator, y)
        return follow_bridge(denoise, x1, self.schedule.levels(steps), None if self.ot_ode else noise, label)

    def sample(self, noise: ImageNoise, steps: int = 1, label: Tensor | None = None) -> Tensor:
        """None: a bridge starts at a damaged image."""
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
