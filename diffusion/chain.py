"""A step of the forward chain x0 -> x_s -> x_t between neighbouring rungs, and the way back by a prediction of x0."""

from typing import NamedTuple

import torch
from torch import Tensor

from diffusion.denoisers import GeneratorDenoiser
from diffusion.ladder import Ladder
from diffusion.noise import forward_step, perturb, posterior_sample
from diffusion.rng import Draws


class ChainDraws(NamedTuple):
    """What is random in a step: noise of x_s, of the step to x_t, of the posterior and of an approximate penalty, like
    x0; the levels t > s (B,); the latent (B, size) or None; the seed of the dropout masks."""

    noise: Tensor
    step_noise: Tensor
    posterior_noise: Tensor
    penalty_noise: Tensor
    t: Tensor
    s: Tensor
    latent: Tensor | None
    dropout_seed: int

    def pair(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """x_s and x_t of the data x0 (B, ...)."""
        x_s = perturb(x0, self.noise, self.s)
        return x_s, forward_step(x_s, self.step_noise, self.s, self.t)

    def back(self, x0_hat: Tensor, x_t: Tensor) -> Tensor:
        """x_s' from the posterior q(x_s | x_t, x0 = x0_hat)."""
        return posterior_sample(x0_hat, x_t, self.posterior_noise, self.t, self.s)


def draw_chain(draws: Draws, x0: Tensor, ladder: Ladder, generator: GeneratorDenoiser) -> ChainDraws:
    """The random numbers of a step for this process's images x0 (B, ...)."""
    rungs = ladder.draw(draws.uniform(len(x0), "levels"), generator.sigma_min, generator.sigma_max)
    return ChainDraws(
        noise=draws.normal_like(x0, "noise"),
        step_noise=draws.normal_like(x0, "step noise"),
        posterior_noise=draws.normal_like(x0, "posterior noise"),
        penalty_noise=draws.normal_like(x0, "penalty noise"),
        t=rungs.t.float(),
        s=rungs.below.float(),
        latent=draw_latent(draws, x0, generator),
        dropout_seed=draws.stream_seed("dropout"),
    )


def draw_latent(draws: Draws, x0: Tensor, generator: GeneratorDenoiser) -> Tensor | None:
    """The latents (B, size) of this process's images x0 (B, ...), None for a generator without."""
    size = generator.latent_size
    return draws.normal_like(torch.empty(len(x0), size, device=x0.device), "latent") if size else None
