"""BCM: one network that follows the trajectory in both directions (Li & He 2024, arXiv 2403.18035).

    x_t = x0 + t z,  x_s = x0 + s z          neighbouring levels t > s, the same noise z
    A = f(x_t, t -> eps)                     gradient
    B = sg f(x_s, s -> eps)                  no gradient
    C = f(x_t, t -> u)                       gradient; any other level u, above or below t
    D = f_sg(C, u -> eps)                    weights frozen, the gradient passes through D into C

    L = lambda(t, s) d(A, B) + lambda'(t, u) d(D, B)

The four passes see the same dropout mask. f_sg and sg f use the current weights (a target EMA rate of 0).

With `round_trip_weight` w > 0 the way back is trained too, as invertible consistency distillation does with its forward
and backward models (Starodubcev et al. 2024, arXiv 2406.14539):

    L += w d(k f(C, u -> t), k x_t),    k = sigma_data/sqrt(sigma_data^2 + t^2), so that it counts alike at every level
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from diffusion.denoisers import BidirectionalDenoiser, edm_scalings
from diffusion.ema import EMA
from diffusion.noise import expand, perturb
from diffusion.pairs import PairLaw
from diffusion.rng import ImageNoise, has_dropout, shared_dropout
from diffusion.samplers import inversion_start, invert, mixed
from diffusion.sharding import frozen_pass
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

TERMS = ("consistency", "bidirectional", "round_trip")


class BCMDraws(NamedTuple):
    """What is random in a step: noise like x0, levels t > s and target u (B,), the seed of the dropout mask."""

    noise: Tensor
    t: Tensor
    s: Tensor
    u: Tensor
    dropout_seed: int


@dataclass(frozen=True)
class BCMPlan:
    """A way to sample: ancestral down `levels`, ending at sigma_min, then zigzag `rounds` of (small, large) levels."""

    levels: tuple[float, ...]
    rounds: tuple[tuple[float, float], ...] = ()

    @property
    def steps(self) -> int:
        """Network evaluations."""
        return len(self.levels) + 2 * len(self.rounds)


# scripts/image_sample.py of Mosasaur5526/BCM-iCT-torch at 74ad31f, ImageNet-64
PLANS = (
    BCMPlan((80.0,)),
    BCMPlan((80.0, 2.4)),
    BCMPlan((80.0,), ((0.1, 1.2),)),
    BCMPlan((80.0, 3.0), ((0.12, 0.4),)),
)


class BCMModule(LightningModule):
    """Bidirectional consistency training, from scratch or tuned from a consistency model.

    Args:
        network: factory `(image_shape, num_classes) -> nn.Module` of a network with two noise levels.
        image_shape: (C, H, W), from the datamodule.
        num_classes: 0 for an unconditional model, from the datamodule.
        pairs: law of the levels t > s and of the target u.
        distance: d, images (B, ...), (B, ...) -> (B,).
        weight: lambda(t, s) of the consistency term.
        target_weight: lambda'(t, u) of the bidirectional term.
        total_images: length of the run in training images.
        optimizer: factory of the optimizer.
        lr_factor: factor of the learning rate as a function of the run's progress; None keeps it constant.
        bidirectional_weight: factor of the bidirectional term, >= 0.
        round_trip_weight: w >= 0 of the round trip x_t -> C -> x_t; 0, as in the paper, leaves its pass out.
        sigma_data, sigma_min, sigma_max: as in `BidirectionalDenoiser`.
        ema_rates: averaging rates per step, the first is evaluated.
        ema_batch: images of the step that the rates are of, see `EMA`; None for this run's step, whatever its size.
        plans: how to sample, one plan per number of evaluations; `PLANS` by default.
        inversions: levels visited by inversion; `invert` takes the first that has its number of evaluations.
        init_from: checkpoint of a consistency model (or BCM) whose EMA weights training starts from.
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
        target_weight: Callable[[Tensor, Tensor], Tensor],
        total_images: int,
        num_classes: int = 0,
        optimizer: OptimizerCallable = RAdam,
        lr_factor: Callable[[float], float] | None = None,
        bidirectional_weight: float = 1.0,
        round_trip_weight: float = 0.0,
        sigma_data: float = 0.5,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        ema_rates: Sequence[float] = (0.9999,),
        ema_batch: int | None = None,
        plans: Sequence[BCMPlan] | None = None,
        inversions: Sequence[Sequence[float]] = ((0.07, 80.0), (0.07, 15.0, 80.0)),
        init_from: str | None = None,
        compile: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        check_budget(total_images)
        if min(bidirectional_weight, round_trip_weight) < 0:
            raise ValueError(
                f"bidirectional_weight={bidirectional_weight}, round_trip_weight={round_trip_weight}: both must be >= 0"
            )
        self.save_hyperparameters()
        self.denoiser = BidirectionalDenoiser(network(image_shape, num_classes), sigma_data, sigma_min, sigma_max)
        self.ema = EMA(self.denoiser, ema_rates, batch=ema_batch)
        self.image_shape, self.num_classes, self.total_images = tuple(image_shape), num_classes, total_images
        self.pairs, self.distance, self.weight, self.target_weight = pairs, distance, weight, target_weight
        self.bidirectional_weight, self.round_trip_weight = bidirectional_weight, round_trip_weight
        self.make_optimizer, self.lr_factor = optimizer, lr_factor
        self.plans = PLANS if plans is None else plans  # as a default it could not be written to a config
        self.inversions, self.init_from, self.seed = inversions, init_from, seed
        self.images_seen = 0
        self.fused = not has_dropout(self.denoiser)  # one pass would give its two halves different masks
        self.objective = compiled(self.loss_terms, self.denoiser) if compile else self.loss_terms

    @property
    def ema_denoiser(self) -> BidirectionalDenoiser:
        """The averaged denoiser that is evaluated."""
        return self.ema.evaluated

    @property
    def progress(self) -> float:
        """Position in the run, from 0 to 1."""
        return self.images_seen / self.total_images

    def draw(self, x0: Tensor, position: int | None = None) -> BCMDraws:
        """The random numbers of a step, a function of the seed and of `position`, by default the images seen."""
        draws, sigma_range = step_draws(self, x0, position), (self.denoiser.sigma_min, self.denoiser.sigma_max)
        t, s = self.pairs.pairs(draws.uniform(len(x0), "levels"), self.progress, *sigma_range)
        u = self.pairs.targets(draws.uniform(len(x0), "targets"), t, self.progress, *sigma_range)
        noise = draws.normal_like(x0, "noise")
        return BCMDraws(noise, t.float(), s.float(), u.float(), draws.stream_seed("dropout"))

    def loss_terms(self, x0: Tensor, label: Tensor | None, draws: BCMDraws) -> tuple[Tensor, ...]:
        """The weighted consistency, bidirectional and, where it is trained, round-trip terms, (B,) each."""
        noise, t, s, u, seed = draws
        x_t, x_s = perturb(x0, noise, t), perturb(x0, noise, s)
        if self.fused:  # A and C leave from the same point: one pass
            eps = torch.full_like(u, self.denoiser.sigma_min)
            twice = None if label is None else label.repeat(2)
            both = self.denoiser(torch.cat([x_t, x_t]), t.repeat(2), twice, target=torch.cat([eps, u]))
            at_eps, at_u = both.chunk(2)
        else:
            with shared_dropout(seed, self.denoiser):
                at_eps = self.denoiser(x_t, t, label)
            with shared_dropout(seed, self.denoiser):
                at_u = self.denoiser(x_t, t, label, target=u)
        with shared_dropout(seed, self.denoiser):
            back = self.frozen(at_u, u, label)
        with shared_dropout(seed, self.denoiser), torch.no_grad():
            target = self.denoiser(x_s, s, label)
        consistency = self.weight(t, s) * self.distance(at_eps, target)
        bidirectional = self.target_weight(t, u) * self.distance(back, target)
        terms = consistency, self.bidirectional_weight * bidirectional
        if self.round_trip_weight == 0:
            return terms
        with shared_dropout(seed, self.denoiser):
            returned = self.denoiser(at_u, u, label, target=t)
        scale = expand(self.denoiser.sigma_data * edm_scalings(t, self.denoiser.sigma_data).c_in, x0)
        return *terms, self.round_trip_weight * self.distance(scale * returned, scale * x_t)

    def frozen(self, x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        """The denoiser whose weights get no gradient, while its input does."""
        return frozen_pass(self.denoiser, x, sigma, label)

    def loss(self, x0: Tensor, label: Tensor | None = None, position: int | None = None) -> Tensor:
        """The loss of each image (B,) at the draws of a step; x0 (B, C, H, W) in [-1, 1], label (B,) or None."""
        terms = self.objective(x0, label if self.num_classes else None, self.draw(x0, position))
        return torch.stack(terms).sum(0)

    def training_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> StepOutput:
        x0, label = batch
        draws = self.draw(x0)
        terms = self.objective(x0, label if self.num_classes else None, draws)
        named = {name: term.detach() for name, term in zip(TERMS, terms, strict=False)}
        return {"loss": torch.stack(terms).sum(0).mean(), "sigma": draws.t, "terms": named}

    def sample(self, noise: ImageNoise, steps: int = 1, label: Tensor | None = None) -> Tensor:
        """Generate (B, C, H, W) from the EMA weights by the plan with `steps` evaluations."""
        for plan in self.plans:
            if plan.steps == steps:
                break
        else:
            raise ValueError(f"steps={steps}: this model has plans for {[plan.steps for plan in self.plans]}")
        eps = self.denoiser.sigma_min
        x = plan.levels[0] * noise()
        return mixed(self.ema_denoiser, x, (*plan.levels, eps), plan.rounds, noise, label, eps)

    def invert(self, x0: Tensor, noise: ImageNoise, steps: int = 1, label: Tensor | None = None) -> Tensor:
        """Map images (B, C, H, W) in [-1, 1] to their noise, at the level where generation starts."""
        start, visited = inversion_start(x0, self.inversion_levels(steps), noise, self.denoiser.sigma_min)
        return invert(self.ema_denoiser, start, visited, label)

    def inversion_levels(self, steps: int) -> Sequence[float]:
        """The levels visited by an inversion of so many evaluations.

        Raises:
            ValueError: none are set for that number.
        """
        for levels in self.inversions:
            if len(levels) - 1 == steps:
                return levels
        raise ValueError(f"steps={steps}: inversions are set for {[len(s) - 1 for s in self.inversions]}")

    def validation_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> None:
        log_loss(self, "val/loss", batch, batch_idx)

    def test_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> None:
        log_loss(self, "test/loss", batch, batch_idx)

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
