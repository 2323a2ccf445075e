"""SIDDM against numbers recorded from xuyanwu/SIDDMs-UFOGen at 382cddc (tests/recorded)."""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from recorded.official import X0, agrees, noise, tensor
from recorded.official_gan import (
    FormulaDiscriminator,
    FormulaGenerator,
    gradient,
    vp,
)

from diffusion.adversarial import Critic, NonSaturating
from diffusion.denoisers import GeneratorDenoiser
from diffusion.noise import forward_step, perturb, posterior_sample

SIDDM = json.loads((Path(__file__).parent / "recorded" / "siddm_ufogen.json").read_text())["siddm"]


# SIDDM's simulation: points (4, 2), the cosine schedule without its norm, so that abar(0) is not 1.

X0_2D = X0.flatten()[:8].reshape(4, 2)


def points(j):
    """noise(j) of the simulation."""
    return noise(j).flatten()[:8].reshape(4, 2)


def uniform(j):
    """uniform(j), the simulation's latents."""
    return 0.5 + 0.5 * torch.sin(0.7 + 1.9 * torch.arange(8, dtype=torch.float64) + j).reshape(4, 2)


def cosine_level(time):
    return torch.tan(math.pi / 2 * (torch.as_tensor(time, dtype=torch.float64) + 0.008) / 1.008)


def rungs(t_p1):
    """Levels t and s of the simulation's times."""
    return cosine_level(t_p1), cosine_level((tensor(t_p1) - 0.25).clamp(min=0))


def test_siddm_steps():
    record = SIDDM["steps"]
    t, s = cosine_level(record["t_p1"]), cosine_level(record["t"])
    agrees(1 / (1 + t**2), tensor(record["alpha_cum_p1"]), 1e-9)
    agrees(1 / (1 + s**2), tensor(record["alpha_cum"]), 1e-9)
    x_s = perturb(X0_2D, points(0), s)
    x_t = forward_step(x_s, points(1), s, t)
    agrees(vp(x_s, s).flatten(), tensor(record["z_t"]), 1e-9)
    agrees(vp(x_t, t).flatten(), tensor(record["z_tp1"]), 1e-9)
    agrees(vp(posterior_sample(X0_2D.flip(0), x_t, points(2), t, s), s).flatten(), tensor(record["posterior"]), 1e-9)


@pytest.mark.parametrize("record", SIDDM["losses"], ids=lambda r: r["name"])
def test_siddm_losses_and_their_gradients(record):
    """D judges x0 at the level s, with x_t beside if there is no term of the conditional. Its logits are (B, 2)."""
    pairs, loss = record["ac_w"] == 0, NonSaturating()
    generator = GeneratorDenoiser(FormulaGenerator(), sigma_data=1.0)
    critic = Critic(FormulaDiscriminator(pairs), sigma_data=1.0)

    def judge(x0, x_t, t, s):
        return critic(torch.cat([x0, vp(x_t, t)], 1) if pairs else x0, s)

    t, s = rungs(record["t_p1_discriminator"])
    x_t = forward_step(perturb(X0_2D, points(0), s), points(1), s, t)
    fake = judge(generator(x_t, t, None, uniform(0)).detach(), x_t, t, s)
    losses = loss.discriminator(judge(X0_2D, x_t, t, s), fake)
    agrees(losses.mean(), tensor(record["D_loss"]), 1e-9)
    agrees(gradient(losses, critic), tensor(record["gradient_discriminator"]), 1e-9)

    t, s = rungs(record["t_p1_generator"])
    x_t = perturb(X0_2D, points(3), t)
    x0_hat = generator(x_t, t, None, uniform(1))
    agrees(x0_hat.flatten(), tensor(record["x_0_predict"]), 1e-9)
    sample = posterior_sample(x0_hat, x_t, points(4), t, s)
    step_noise = torch.zeros(4, 2) if record["zero_noise"] == 5 else points(5)
    again = forward_step(sample, step_noise, s, t)
    agrees(vp(again, t).flatten(), tensor(record["x_tp1_fake"]), 1e-9)
    conditional = (vp(again, t) - vp(x_t, t)).square().mean(1)
    losses = loss.generator(judge(x0_hat, x_t, t, s), fake)
    agrees(losses.mean(), tensor(record["G_loss"]), 1e-9)
    agrees(conditional.mean(), tensor(record["error_condition"]), 1e-9)
    total = losses + record["ac_w"] * conditional
    agrees(gradient(total, generator), tensor(record["gradient_generator"]), 1e-9)
    if record["zero_noise"] == 5:
        ours = (sample - x_t).square().mean(1) / (1 + t**2)
        agrees(ours.mean(), tensor(record["error_condition"]), 1e-9)


@pytest.mark.parametrize("record", SIDDM["sample_from_model"], ids=lambda r: str(r["num_timesteps"]))
def test_siddm_sampler(record):
    """Their first level is infinite but for rounding, sigma = 1.6e16, from where `DDPM` has no digits left."""
    n = record["num_timesteps"]
    generator, sigmas = GeneratorDenoiser(FormulaGenerator(), sigma_data=1.0), cosine_level(torch.arange(n, 0, -1) / n)
    x = points(0) * (1 + sigmas[0] ** 2).sqrt()
    for i, (t, s) in enumerate(pairwise(sigmas.unbind())):
        x = posterior_sample(generator(x, t, None, uniform(i)), x, points(i + 1), t, s)
    agrees(generator(x, sigmas[-1], None, uniform(n - 1)).flatten(), tensor(record["output"]), 1e-9)
    assert record["draws"] == [n - 1, n]
