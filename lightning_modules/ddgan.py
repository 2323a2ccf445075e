"""DDGAN: denoising diffusion whose few large steps are made by a conditional GAN (Xiao et al. 2022, arXiv 2112.07804).

Levels t > s, neighbours on a ladder of T rungs, G the generator with a latent z, D a discriminator of pairs:

    x_s = x0 + s z1,  x_t = x_s + sqrt(t^2 - s^2) z2                     the data's pair
    x0' = G(x_t, t, z),  x_s' ~ q(x_s | x_t, x0 = x0')                   the sample, by the posterior
    L_D = softplus(-D(x_s, x_t, s)) + softplus(D(x_s', x_t, s)) + gamma/2 ||dD/dx_s||^2
    L_G = softplus(-D(x_s', x_t, s))

D sees both points, so what is matched is the law of x_s *given* x_t, which has many modes where the step is large:
without z the generator could not have them. Sampling goes down rung by rung by the same posterior.

Note: the released code has an x0' of tanh (`BoundedGenerator`), R1 every 15th step without scaling
(`GradientPenalty(0.02, interval=15, scaled=False)`), and points of the data itself at the lowest level, here sigma_min.
"""

from collections.abc import Callable, Sequence

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from diffusion.adversarial import Critic, GanLoss, NonSaturating, Penalty
from diffusion.chain import ChainDraws, draw_chain
from diffusion.denoisers import GeneratorDenoiser
from diffusion.ema import EMA
from diffusion.ladder import Ladder
from diffusion.rng import ImageNoise, shared_dropout
from diffusion.samplers import levels_for
from diffusion.sde_samplers import DDPM
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


class DDGANModule(LightningModule):
    """Denoising diffusion GAN.

    Args:
        network: factory `(image_shape, num_classes) -> nn.Module` of the generator, with a `latent_size` > 0.
        image_shape: (C, H, W), from the datamodule.
        discriminator: factory `(image_shape, num_classes) -> nn.Module` of the discriminator, called with the shape
            (2 C, H, W) of a pair.
        total_images: length of the run in training images.
        num_classes: 0 for an unconditional model, from the datamodule.
        ladder: the levels; by default 4 rungs of the cosine schedule.
        gan_loss: what the two sides minimise; `NonSaturating` by default.
        penalty: of the discriminator; None for none.
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

    term_names = ("adversarial", "adversarial_gradient")
    judged_names = ("discriminator", "penalty", *READINGS)

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
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.denoiser = denoiser(network(image_shape, num_classes), sigma_data, sigma_min, sigma_max)
        channels, height, width = image_shape
        self.critic = Critic(discriminator((2 * channels, height, width), num_classes), sigma_data)
        self.ema = EMA(self.denoiser, ema_rates, batch=ema_batch)
        self.image_shape, self.num_classes, self.total_images = tuple(image_shape), num_classes, total_images
        self.ladder, self.gan_loss, self.penalty = ladder or Ladder(), gan_loss or NonSaturating(), penalty
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

    def judge(self, x_t: Tensor, label: Tensor | None, draws: ChainDraws) -> Callable[[Tensor], Tensor]:
        """D of points x_s beside the given x_t."""
        beside = self.critic.rescaled(x_t, draws.t)

        def logits(seen: Tensor) -> Tensor:
            with shared_dropout(draws.dropout_seed, self.critic):
                return self.critic(torch.cat([seen, beside], dim=1), draws.s, label)

        return logits

    def discriminator_terms(
        self, x0: Tensor, x0_hat: Tensor, label: Tensor | None, draws: ChainDraws, penalise: bool
    ) -> Verdict:
        """L_D of each image (B,), with the penalty where it is due."""
        x_s, x_t = draws.pair(x0)
        judge = self.judge(x_t, label, draws)
        real, fake = (self.critic.rescaled(x, draws.s) for x in (x_s, draws.back(x0_hat, x_t)))
        real_logits, fake_logits = judge(real), judge(fake)
        terms = {"discriminator": self.gan_loss.discriminator(real_logits, fake_logits)}
        if penalise and self.penalty is not None:
            terms["penalty"] = penalty_in_float32(self.penalty, judge, real, fake, draws.penalty_noise)
        return Verdict(terms, real_logits, fake_logits)

    def generator_terms(self, x0: Tensor, x0_hat: Tensor, label: Tensor | None, draws: ChainDraws) -> dict[str, Tensor]:
        """L_G of each image (B,)."""
        x_s, x_t = draws.pair(x0)
        judge = self.judge(x_t, label, draws)
        logits = judge(self.critic.rescaled(draws.back(x0_hat, x_t), draws.s))
        with torch.no_grad():
            real_logits = judge(self.critic.rescaled(x_s, draws.s)) if self.gan_loss.relativistic else logits
        return {"adversarial": self.gan_loss.generator(logits, real_logits)}

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
