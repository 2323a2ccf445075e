"""SIDDM: semi-implicit denoising diffusion (Xu et al. 2023, arXiv 2306.12511).

Levels t > s, neighbours on a ladder of T rungs, G the generator, D the discriminator, C a regressor in D's decoder:

    x_s = x0 + s z,  x_t = x_s + sqrt(t^2 - s^2) z'                     the data's pair
    x0' = G(x_t, t),  x_s' ~ q(x_s | x_t, x0 = x0')                     the sample, by the posterior

The pairs have the same law if their marginals do, which D judges, and if x_t given x_s' is as the forward process has
it:

    KL(p(x_t | x_s') || q(x_t | x_s')) = E w ||x_t - x_s'||^2 - H(x_t | x_s') + const,   w = 1/(2 (t^2 - s^2))

the auxiliary forward diffusion term. Its entropy is estimated by C, which regresses on x_t, and which G plays against:

    L_D = softplus(-D(x_s)) + softplus(D(x_s')) + a w ||C(x_s') - x_t||^2 + r v ||B(x_s) - x0||^2 + penalty
    L_G = softplus(-D(x_s')) + a w (||x_t - x_s'||^2 - ||C(x_s') - x_t||^2)

B, the other half of the decoder, denoises *real* points (v EDM's weight), which keeps D's features those of images.
Where p = q, C(x_s) = x_s and L_G has no gradient. ||.||^2 is the mean over the elements.

Note: the released simulation (xuyanwu/SIDDMs-UFOGen) has the first half of the term as here, up to noise of its own and
the weight w, and no C. The paper's text could not be read; as commonly quoted its first half has ||x_s' - x_s||^2,
whose gradient does not vanish at p = q.
"""

from collections.abc import Callable, Sequence

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from diffusion.adversarial import DecodingCritic, GanLoss, NonSaturating, Penalty
from diffusion.chain import ChainDraws, draw_chain
from diffusion.denoisers import GeneratorDenoiser
from diffusion.distances import SquaredL2
from diffusion.ema import EMA
from diffusion.ladder import Ladder
from diffusion.rng import ImageNoise, shared_dropout
from diffusion.samplers import levels_for
from diffusion.sde_samplers import DDPM
from diffusion.weightings import EDMWeight, ForwardKL
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


class SIDDMModule(LightningModule):
    """Semi-implicit denoising diffusion model.

    Args:
        network: factory `(image_shape, num_classes) -> nn.Module` of the generator.
        image_shape: (C, H, W), from the datamodule.
        discriminator: factory of a discriminator with a decoder of 2 C channels, `UNetDiscriminator` or
            `MLPDiscriminator`.
        total_images: length of the run in training images.
        num_classes: 0 for an unconditional model, from the datamodule.
        ladder: the levels; by default 4 rungs of the cosine schedule.
        gan_loss: what the two sides minimise; `NonSaturating` by default.
        penalty: of the discriminator; None for none.
        forward_weight: a >= 0, of the auxiliary forward diffusion term; 1 in the paper, 0 leaves it and C out.
        denoising_weight: r >= 0, of the decoder's denoising of real points; 0 leaves it out.
        generator_player, discriminator_player: how the two are trained.
        denoiser: class of the generator, `GeneratorDenoiser` or `BoundedGenerator`.
        sigma_data, sigma_min, sigma_max: as in `Denoiser`; sigma_min is the ladder's lowest level, practically 0.
        ema_rates: averaging rates per step of the generator, the first is evaluated.
        ema_batch: images of the step that the rates are of, see `EMA`; None for this run's step, whatever its size.
        schedules: levels visited when sampling, one sequence per number of evaluations; by default the ladder's.
        init_from: checkpoint of a diffusion model whose EMA weights the generator starts from.
        discriminator_init_from: checkpoint whose EMA weights the discriminator starts from.
        seed: of all random draws.
    """

    term_names = ("adversarial", "forward", "adversarial_gradient", "forward_gradient")
    judged_names = ("discriminator", "regression", "denoising", "penalty", *READINGS)

    def __init__(
        self,
        network: Callable[[tuple[int, int, int], int], nn.Module],
        image_shape: tuple[int, int, int],
        discriminator: Callable[[tuple[int, int, int], int], nn.Module],
        total_images: int,
        num_classes: int = 0,
        ladder: Ladder | None = None,
        gan_loss: GanLoss | None = None,
        penalty: Penalty | None = None,
        forward_weight: float = 1.0,
        denoising_weight: float = 1.0,
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
        if forward_weight < 0 or denoising_weight < 0:
            raise ValueError(f"forward_weight={forward_weight}, denoising_weight={denoising_weight}: both must be >= 0")
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.denoiser = denoiser(network(image_shape, num_classes), sigma_data, sigma_min, sigma_max)
        self.critic = DecodingCritic(discriminator(image_shape, num_classes), image_shape[0], sigma_data)
        self.ema = EMA(self.denoiser, ema_rates, batch=ema_batch)
        self.image_shape, self.num_classes, self.total_images = tuple(image_shape), num_classes, total_images
        self.ladder, self.gan_loss, self.penalty = ladder or Ladder(), gan_loss or NonSaturating(), penalty
        self.forward_weight, self.denoising_weight = forward_weight, denoising_weight
        self.kl, self.edm_weight, self.distance = ForwardKL(), EDMWeight(sigma_data), SquaredL2()
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

    def draw(self, x0: Tensor, position: int | None = None) -> ChainDraws:
        """The random numbers of a step, a function of the seed and of `position`, by default the images seen."""
        return draw_chain(step_draws(self, x0, position), x0, self.ladder, self.denoiser)

    def generate(self, x0: Tensor, label: Tensor | None, draws: ChainDraws) -> Tensor:
        """x0' (B, C, H, W)."""
        with shared_dropout(draws.dropout_seed, self.denoiser):
            return self.denoiser(draws.pair(x0)[1], draws.t, label, draws.latent)

    def decode(self, x_s: Tensor, label: Tensor | None, draws: ChainDraws) -> tuple[Tensor, Tensor, Tensor]:
        """D(x_s), B(x_s) and C(x_s)."""
        with shared_dropout(draws.dropout_seed, self.critic):
            return self.critic.decode(x_s, draws.s, draws.t, label)

    def discriminator_terms(
        self, x0: Tensor, x0_hat: Tensor, label: Tensor | None, draws: ChainDraws, penalise: bool
    ) -> Verdict:
        """L_D of each image (B,), with the penalty where it is due."""
        x_s, x_t = draws.pair(x0)
        sample = draws.back(x0_hat, x_t)
        real, denoised, _ = self.decode(x_s, label, draws)
        fake, _, regressed = self.decode(sample, label, draws)
        regression = self.kl(draws.t, draws.s) * self.distance(regressed, x_t)
        denoising = self.edm_weight(draws.s) * self.distance(denoised, x0)
        terms = {
            "discriminator": self.gan_loss.discriminator(real, fake),
            "regression": self.forward_weight * regression,
            "denoising": self.denoising_weight * denoising,
        }
        if penalise and self.penalty is not None:

            def judge(seen: Tensor) -> Tensor:
                with shared_dropout(draws.dropout_seed, self.critic):
                    return self.critic(seen, draws.s, label)

            real_seen, fake_seen = (self.critic.rescaled(x, draws.s) for x in (x_s, sample))
            terms["penalty"] = penalty_in_float32(self.penalty, judge, real_seen, fake_seen, draws.penalty_noise)
        return Verdict(terms, real, fake)

    def generator_terms(self, x0: Tensor, x0_hat: Tensor, label: Tensor | None, draws: ChainDraws) -> dict[str, Tensor]:
        """The two terms of L_G, (B,) each."""
        x_s, x_t = draws.pair(x0)
        sample = draws.back(x0_hat, x_t)
        logits, _, regressed = self.decode(sample, label, draws)
        with torch.no_grad():
            real_logits = self.decode(x_s, label, draws)[0] if self.gan_loss.relativistic else logits
        terms = {"adversarial": self.gan_loss.generator(logits, real_logits)}
        if self.forward_weight > 0:
            excess = self.distance(sample, x_t) - self.distance(regressed, x_t)
            terms["forward"] = self.forward_weight * self.kl(draws.t, draws.s) * excess
        return terms

    def loss(self, x0: Tensor, label: Tensor | None = None, position: int | None = None) -> Tensor:
        """L_G of each image (B,) at the draws of a step; x0 (B, C, H, W) in [-1, 1], label (B,) or None."""
        return generator_loss(self, x0, label, position)

    def training_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> StepOutput:
        x0, label = batch
        return game_step(self, x0, label if self.num_classes else None)

    def sample(self, noise: ImageNoise, steps: int = 4, label: Tensor | None = None) -> Tensor:
        """Generate (B, C, H, W) from the EMA weights by the schedule with `steps` evaluations, by the posterior."""
        sigmas = levels_for(self.schedules, steps)
        return DDPM()(self.ema_denoiser.drawing(noise), sigmas[0] * noise(), sigmas, noise, label)

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
