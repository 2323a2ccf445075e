"""DDGAN against numbers recorded from NVlabs/denoising-diffusion-gan at 6818ded (tests/recorded)."""

import json
from pathlib import Path

import pytest
import torch
from recorded.official import X0, agrees, noise, tensor
from recorded.official_gan import (
    FormulaDiscriminator,
    FormulaGenerator,
    LatentNoise,
    beta,
    gradient,
    kept,
    latent,
    level,
    vp,
)

from diffusion.adversarial import GradientPenalty
from diffusion.chain import ChainDraws
from diffusion.denoisers import BoundedGenerator
from diffusion.grids import VPGrid
from diffusion.ladder import Ladder
from diffusion.noise import posterior_sample, posterior_std, vp_grid
from diffusion.sde_samplers import DDPM
from lightning_modules.ddgan import DDGANModule

DDGAN = json.loads((Path(__file__).parent / "recorded" / "ddgan.json").read_text())


# DDGAN. Its lowest level is abar = 1 - 1e-8 where data are noised, and the data themselves where samples are.


def schedule(steps):
    """The recorded schedule of T = `steps`, and the levels of its T + 1 rungs."""
    record = DDGAN["schedules"][str(steps)]
    return record, tensor(record["sigmas_cum"]) / tensor(record["a_s_cum"])


class CleanChain(ChainDraws):
    """Draws whose samples at the lowest rung are x0' itself."""

    def back(self, x0_hat, x_t):
        return posterior_sample(x0_hat, x_t, self.posterior_noise, self.t, torch.where(self.s < 1e-3, 0.0, self.s))


def chain(t, first, latent_index=0):
    """The draws of indices t with noise(first) of the step, noise(first + 1) of x_t, noise(first + 2) back."""
    sigma, t = schedule(4)[1], torch.tensor(t)
    return CleanChain(
        noise=noise(first + 1),
        step_noise=noise(first),
        posterior_noise=noise(first + 2),
        penalty_noise=noise(0),
        t=sigma[t + 1],
        s=sigma[t],
        latent=latent(latent_index),
        dropout_seed=0,
    )


def ddgan_module(penalty=None):
    return DDGANModule(
        network=lambda image_shape, num_classes: FormulaGenerator(),
        discriminator=lambda image_shape, num_classes: FormulaDiscriminator(pairs=True, summed=True),
        image_shape=X0.shape[1:],
        penalty=penalty,
        denoiser=BoundedGenerator,
        sigma_data=1.0,
        total_images=1,
    )


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_ddgan_schedule(steps):
    """Their abar is divided by that of the SDE's first time, 0.001; the rungs are the same."""
    record, sigma = schedule(steps)
    agrees(beta(sigma[1:], sigma[:-1]), tensor(record["betas"])[1:], 1e-9)
    start, top = vp_grid(1).tolist()
    rungs = Ladder(VPGrid(), steps).levels(start, top)
    agrees((1 + start**2) / (1 + rungs**2), tensor(record["a_s_cum"]) ** 2 / (1 - 1e-8), 1e-9)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_ddgan_posterior(steps):
    """Mean and variance of q(x_s | x_t, x0), in variance-preserving points."""
    record = DDGAN["schedules"][str(steps)]
    t = level(tensor(record["alphas_cumprod"]))
    s = torch.cat([torch.zeros(1), t[:-1]])
    agrees(posterior_std(t, s) ** 2 / (1 + s**2), tensor(record["posterior_variance"]), 1e-9)
    one, zero = torch.ones(steps, 1, dtype=torch.float64), torch.zeros(steps, 1, dtype=torch.float64)
    of_x0 = vp(posterior_sample(one, zero, zero, t, s), s)
    of_x_t = vp(posterior_sample(zero, one * (1 + t**2).sqrt()[:, None], zero, t, s), s)
    agrees(of_x0.flatten(), tensor(record["posterior_mean_coef1"]), 1e-9)
    agrees(of_x_t.flatten(), tensor(record["posterior_mean_coef2"]), 1e-9)


@pytest.mark.parametrize("record", DDGAN["samples"], ids=lambda r: str(r["t"]))
def test_ddgan_pairs_and_samples(record):
    draws = chain(record["t"], 0)
    x_s, x_t = draws.pair(X0)
    agrees(kept(vp(x_s, draws.s)), tensor(record["x_t"]), 1e-9)
    agrees(kept(vp(x_t, draws.t)), tensor(record["x_tp1"]), 1e-9)
    agrees(kept(vp(draws.back(X0.flip(0), x_t), draws.s)), tensor(record["posterior"]), 1e-7)


@pytest.mark.parametrize("record", DDGAN["losses"], ids=lambda r: r["name"])
def test_ddgan_losses_and_their_gradients(record):
    interval = record["lazy_reg"] or 1
    module = ddgan_module(GradientPenalty(record["r1_gamma"], interval=interval, scaled=False))
    due = record["global_step"] % interval == 0
    assert due == (record["grad_penalty"] is not None)

    draws = chain(record["t_discriminator"], 0)
    x0_hat = module.generate(X0, None, draws).detach()
    terms = module.discriminator_terms(X0, x0_hat, None, draws, due).terms
    agrees(terms["discriminator"].mean(), tensor(record["errD_real"] + record["errD_fake"]), 1e-7)
    if due:
        agrees(terms["penalty"].mean(), tensor(record["grad_penalty"]), 1e-7)
    agrees(gradient(sum(terms.values()), module.critic), tensor(record["gradient_discriminator"]), 1e-7)

    draws = chain(record["t_generator"], 3, latent_index=1)
    terms = module.generator_terms(X0, module.generate(X0, None, draws), None, draws)
    agrees(terms["adversarial"].mean(), tensor(record["errG"]), 1e-7)
    agrees(gradient(terms["adversarial"], module.denoiser), tensor(record["gradient_generator"]), 1e-7)


def test_ddgan_sampler():
    """Their latest draw of noise, at the lowest rung, is multiplied by 0."""
    sigmas = level(tensor(DDGAN["schedules"]["4"]["alphas_cumprod"])).flip(0).tolist()
    draws = LatentNoise(6)
    sample = DDPM()(ddgan_module().denoiser.drawing(draws), sigmas[0] * noise(5), sigmas, draws)
    agrees(kept(sample), tensor(DDGAN["sample_from_model"]), 1e-9)
    assert (draws.calls, draws.latents) == (3, 4)
