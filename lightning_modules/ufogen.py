"""UFOGen: a diffusion-GAN whose generator learns to do it in one step (Xu et al. 2024, arXiv 2311.09257).

Levels t > s of a ladder of T rungs, G the generator (x0 itself is predicted), D the discriminator:

    x_t = x0 + t z          x0' = G(x_t, t)
    x_s = x0 + s z'         x_s' = x0' + s z''           the sample is noised *forward*, with noise of its own
    L_D = softplus(-D(x_s, s)) + softplus(D(x_s', s)) + penalty
    L_G = softplus(-D(x_s', s)) + lambda w(t, s) ||x0' - x0||^2,     w = 1/(2 (t^2 - s^2)) = alpha_bar_t/(2 beta_t)

The last term is KL(q(x_t | x_s') || q(x_t | x_s)) for points x_s, x_s' of the same noise. Unlike the posterior of
`ddgan.py` and `siddm.py`, the forward noise keeps x_s' a function of x0' alone. Adding Gaussian noise maps
distributions one to one, so if x_s' and x_s have the same law, x0' and x0 have, at every t, t = sigma_max included:
one step is enough.

Note: with T = 4 levels of the variance-preserving schedule the sample from the top is judged at sigma = 17, where
little is left of an image. `docs/results.md` measures which level, ladder and w to take; the defaults follow it.
||.||^2 is the mean over the elements here; lambda = C H W makes it the paper's norm.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from diffusion.adversarial import Critic, GanLoss, NonSaturating, Penalty
from diffusion.chain import draw_latent
from diffusion.denoisers import GeneratorDenoiser
from diffusion.distances import SquaredL2
from diffusion.ema import EMA
from diffusion.ladder import JudgedLevel, Ladder, PreviousLevel
from diffusion.noise import perturb
from diffusion.rng import ImageNoise, shared_dropout
from diffusion.samplers import levels_for, multistep
from diffusion.weightings import ClampedSNR
from lightning_modules.players import (
    READINGS,
    Game,
    Player,
    Verdict,
    game_step,
    generator_loss,
    optimizers,
    penalty_in_float32,
)
from lightning_modules.run import StepOutput, check_budget, log_loss, run_callbacks, step_draws


class UFOGenDraws(NamedTuple):
    """What is random in a step: noise of x_t, of x_s, of x_s' and of an approximate penalty, like x0; the levels t, the
    rung below it, and s (B,); the latent (B, size) or None; the seed of the dropout masks."""

    noise: Tensor
    real_noise: Tensor
    fake_noise: Tensor
    penalty_noise: Tensor
    t: Tensor
    below: Tensor
    s: Tensor
    latent: Tensor | None
    dropout_seed: int


class UFOGenModule(LightningModule):
    """UFOGen, from scratch or from a trained diffusion model.

    Args:
        network: factory `(image_shape, num_classes) -> nn.Module` of the generator.
        image_shape: (C, H, W), from the datamodule.
        discriminator: factory `(image_shape, num_classes) -> nn.Module` of the discriminator.
        total_images: length of the run in training images.
        num_classes: 0 for an unconditional model, from the datamodule.
        ladder: the levels t; by default 4 rungs of the cosine schedule.
        judged: the level s at which a sample from t is judged.
        gan_loss: what the two sides minimise; `NonSaturating` by default.
        penalty: of the discriminator; None for none.
        reconstruction: w(t, rung below): `ClampedSNR` by default, `ForwardKL` the paper's, `ConstantGap` for w = 1.
        reconstruction_weight: lambda >= 0; 0 leaves the term out.
        generator_player, discriminator_player: how the two are trained.
        denoiser: class of the generator, `GeneratorDenoiser` or `BoundedGenerator`.
        sigma_data, sigma_min, sigma_max: as in `Denoiser`; sigma_min is the ladder's lowest level, practically 0.
        ema_rates: averaging rates per step of the generator, the first is evaluated.
        ema_batch: images of the step that the rates are of, see `EMA`; None for this run's step, whatever its size.
        schedules: levels visited when sampling, one sequence per number of evaluations; by default the ladder's.
        init_from: checkpoint of a diffusion model whose EMA weights the generator starts from.
        discriminator_init_from: checkpoint whose EMA weights a discriminator that holds such a network starts from.
        seed: of all random draws.
    """

    term_names = ("adversarial", "reconstruction", "adversarial_gradient", "reconstruction_gradient")
    judged_names = ("discriminator", "penalty", *READINGS)

    def __init__(
        self,
        network: Callable[[tuple[int, int, int], int], nn.Module],
        image_shape: tuple[int, int, int],
        discriminator: Callable[[tuple[int, int, int], int], nn.Module],
        total_images: int,
        num_classes: int = 0,
        ladder: Ladder | None = None,
        judged: JudgedLevel | None = None,
        gan_loss: GanLoss | None = None,
        penalty: Penalty | None = None,
        reconstruction: Callable[[Tensor, Tensor], Tensor] | None = None,
        reconstruction_weight: float = 0.1,
        generator_player: Player = Player(),  # noqa: B008 (frozen)
        discriminator_player: Player = Player(),  # noqa: B008
        denoiser: Callable[[nn.Module, float, float, float], GeneratorDenoiser] = GeneratorDenoiser,
        sigma_data: float = 0.5,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        ema_rates: Sequence[float] = (0.999,),
        ema_batch: int | None = None,
        schedules: Sequence[Sequence[float]] | None = None,
        init_from: str | None = None,
        discriminator_init_from: str | None = None,
        seed: int = 0,
    ):
        super().__init__()
        check_budget(total_images)
        if reconstruction_weight < 0:
            raise ValueError(f"reconstruction_weight={reconstruction_weight}: it must be >= 0")
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.denoiser = denoiser(network(image_shape, num_classes), sigma_data, sigma_min, sigma_max)
        self.critic = Critic(discriminator(image_shape, num_classes), sigma_data)
        self.ema = EMA(self.denoiser, ema_rates, batch=ema_batch)
        self.image_shape, self.num_classes, self.total_images = tuple(image_shape), num_classes, total_images
        self.ladder, self.judged = ladder or Ladder(), judged or PreviousLevel()
        self.gan_loss, self.penalty = gan_loss or NonSaturating(), penalty
        self.reconstruction, self.reconstruction_weight = reconstruction or ClampedSNR(), reconstruction_weight
        self.distance = SquaredL2()
        self.generator_player, self.discriminator_player = generator_player, discriminator_player
        self.schedules = schedules or self.ladder.schedules(sigma_min, sigma_max)
        self.init_from, self.discriminator_init_from = init_from, discriminator_init_from
        self.seed = seed
        self.images_seen = self.batches_seen = self.generator_steps = 0

    @property
    def ema_denoiser(self) -> GeneratorDenoiser:
        """The averaged generator that is evaluated."""
        return self.ema.evaluated

    @property
    def progress(self) -> float:
        """Position in the run, from 0 to 1."""
        return self.images_seen / self.total_images

    def draw(self, x0: Tensor, position: int | None = None) -> UFOGenDraws:
        """The random numbers of a step, a function of the seed and of `position`, by default the images seen."""
        draws, sigma_range = step_draws(self, x0, position), (self.denoiser.sigma_min, self.denoiser.sigma_max)
        rungs = self.ladder.draw(draws.uniform(len(x0), "levels"), *sigma_range)
        s = self.judged(draws.uniform(len(x0), "judged"), rungs, self.ladder.levels(*sigma_range, x0.device))
        return UFOGenDraws(
            noise=draws.normal_like(x0, "noise"),
            real_noise=draws.normal_like(x0, "real noise"),
            fake_noise=draws.normal_like(x0, "fake noise"),
            penalty_noise=draws.normal_like(x0, "penalty noise"),
            t=rungs.t.float(),
            below=rungs.below.float(),
            s=s.float(),
            latent=draw_latent(draws, x0, self.denoiser),
            dropout_seed=draws.stream_seed("dropout"),
        )

    def generate(self, x0: Tensor, label: Tensor | None, draws: UFOGenDraws) -> Tensor:
        """x0' (B, C, H, W)."""
        with shared_dropout(draws.dropout_seed, self.denoiser):
            return self.denoiser(perturb(x0, draws.noise, draws.t), draws.t, label, draws.latent)

    def judge(self, label: Tensor | None, draws: UFOGenDraws) -> Callable[[Tensor], Tensor]:
        """D at the levels and labels of a step."""

        def logits(seen: Tensor) -> Tensor:
            with shared_dropout(draws.dropout_seed, self.critic):
                return self.critic(seen, draws.s, label, draws.t)

        return logits

    def pair(self, x0: Tensor, x0_hat: Tensor, draws: UFOGenDraws) -> tuple[Tensor, Tensor]:
        """x_s and x_s' as D sees them."""
        real, fake = perturb(x0, draws.real_noise, draws.s), perturb(x0_hat, draws.fake_noise, draws.s)
        return self.critic.rescaled(real, draws.s), self.critic.rescaled(fake, draws.s)

    def discriminator_terms(
        self, x0: Tensor, x0_hat: Tensor, label: Tensor | None, draws: UFOGenDraws, penalise: bool
    ) -> Verdict:
        """L_D of each image (B,), with the penalty where it is due."""
        (real, fake), judge = self.pair(x0, x0_hat, draws), self.judge(label, draws)
        real_logits, fake_logits = judge(real), judge(fake)
        terms = {"discriminator": self.gan_loss.discriminator(real_logits, fake_logits)}
        if penalise and self.penalty is not None:
            terms["penalty"] = penalty_in_float32(self.penalty, judge, real, fake, draws.penalty_noise)
        return Verdict(terms, real_logits, fake_logits)

    def generator_terms(
        self, x0: Tensor, x0_hat: Tensor, label: Tensor | None, draws: UFOGenDraws
    ) -> dict[str, Tensor]:
        """The two terms of L_G, (B,) each."""
        (real, fake), judge = self.pair(x0, x0_hat, draws), self.judge(label, draws)
        logits = judge(fake)
        with torch.no_grad():
            real_logits = judge(real) if self.gan_loss.relativistic else logits
        terms = {"adversarial": self.gan_loss.generator(logits, real_logits)}
        if self.reconstruction_weight > 0:
            weight = self.reconstruction_weight * self.reconstruction(draws.t, draws.below)
            terms["reconstruction"] = weight * self.distance(x0_hat, x0)
        return terms

    def loss(self, x0: Tensor, label: Tensor | None = None, position: int | None = None) -> Tensor:
        """L_G of each image (B,) at the draws of a step; x0 (B, C, H, W) in [-1, 1], label (B,) or None."""
        return generator_loss(self, x0, label, position)

    def training_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> StepOutput:
        x0, label = batch
        return game_step(self, x0, label if self.num_classes else None)

    def sample(self, noise: ImageNoise, steps: int = 1, label: Tensor | None = None) -> Tensor:
        """Generate (B, C, H, W) from the EMA weights by the schedule with `steps` evaluations.

        After each but the last, x0' is noised forward to the next level, as in training.
        """
        sigmas = levels_for(self.schedules, steps)
        return multistep(self.ema_denoiser.drawing(noise), sigmas[0] * noise(), sigmas, noise, label, sigma_min=0.0)

    def validation_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> None:
        log_loss(self, "val/loss", batch, batch_idx)

    def test_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> None:
        log_loss(self, "test/loss", batch, batch_idx)

    def update_averages(self, k: int, images: int | None = None) -> None:
        """Called after the generator's k-th step, which took `images` images."""
        self.ema.update(self.denoiser, k, images)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return optimizers(self)

    def configure_callbacks(self) -> list:
        return [*run_callbacks(), Game()]
