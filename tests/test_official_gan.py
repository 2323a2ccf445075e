"""DDGAN, SIDDM and UFOGen against numbers recorded from NVlabs/denoising-diffusion-gan at 6818ded,
xuyanwu/SIDDMs-UFOGen at 382cddc and diffusers' UFOGenScheduler at 58eb52c (tests/recorded).

Their points are variance-preserving, x/sqrt(1 + sigma^2) of ours, as a `Critic` with sigma_data = 1 has them.
"""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from recorded.official import X0, NoiseSequence, agrees, noise, tensor
from torch import nn

from diffusion.adversarial import Critic, GradientPenalty, NonSaturating
from diffusion.chain import ChainDraws
from diffusion.denoisers import BoundedGenerator, GeneratorDenoiser
from diffusion.grids import CosineGrid, LinearBetaGrid, VPGrid
from diffusion.ladder import Ladder
from diffusion.noise import forward_step, perturb, posterior_sample, posterior_std, vp_grid
from diffusion.samplers import multistep
from diffusion.sde_samplers import DDPM
from diffusion.weightings import ClampedSNR
from lightning_modules.ddgan import DDGANModule
from lightning_modules.ufogen import UFOGenDraws, UFOGenModule

FOLDER = Path(__file__).parent / "recorded"
DDGAN = json.loads((FOLDER / "ddgan.json").read_text())
SIDDM, UFOGEN = (json.loads((FOLDER / "siddm_ufogen.json").read_text())[name] for name in ("siddm", "ufogen"))
SCHEDULER = json.loads((FOLDER / "ufogen_scheduler.json").read_text())["UFOGenScheduler"]


def column(values, x):
    return values.reshape(-1, *[1] * (x.ndim - 1))


class FormulaGenerator(nn.Module):
    """F = a tanh(x + 0.2 c_noise) + b cos(x flipped along its channels) + c (z_1 sin(x) + z_2)."""

    latent_size = 2

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (0.8, -0.3, 0.5))

    def forward(self, x, c_noise, label=None, latent=None):
        out = self.a * torch.tanh(x + 0.2 * column(c_noise, x)) + self.b * torch.cos(x.flip(1))
        if latent is None:
            return out
        first, second = (column(z, x) for z in latent.unbind(1))
        return out + self.c * (first * torch.sin(x) + second)


class FormulaDiscriminator(nn.Module):
    """A logit for every place: p tanh(x + 0.3 c_noise) + q x (y + 0.5 x flipped) + r cos(2 x - y).

    y is the second half of the channels of a pair, else 0. `summed`: one logit an image, a quarter of the sum.
    """

    def __init__(self, pairs=False, summed=False):
        super().__init__()
        self.p, self.q, self.r = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (0.7, -0.4, 0.6))
        self.pairs, self.summed = pairs, summed

    def forward(self, x, c_noise, label=None):
        x, y = x.chunk(2, dim=1) if self.pairs else (x, torch.zeros_like(x))
        places = self.p * torch.tanh(x + 0.3 * column(c_noise, x)) + self.q * x * (y + 0.5 * x.flip(1))
        places = places + self.r * torch.cos(2 * x - y)
        return places.flatten(1).sum(1) / 4 if self.summed else places


def gradient(loss, network):
    """d(the mean of the loss)/d(the scalars)."""
    return torch.stack(torch.autograd.grad(loss.mean(), list(network.parameters()), retain_graph=True))


def kept(x):
    """The elements that the recordings keep of (3, 2, 4, 4)."""
    return x[:, 0, 0].flatten()


def vp(x, sigma):
    """The variance-preserving point."""
    return Critic(nn.Identity(), sigma_data=1.0).rescaled(x, sigma)


def level(alpha_bar):
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def beta(t, s):
    return (t**2 - s**2) / (1 + t**2)


class LatentNoise(NoiseSequence):
    """A `NoiseSequence` with the recording's latents beside."""

    latents = 0

    def vector(self, size):
        self.latents += 1
        return latent(self.latents - 1, size)


def latent(j, size=2):
    k = torch.arange(3 * size, dtype=torch.float64).reshape(3, size)
    return math.sqrt(2) * torch.sin(0.5 + 1.3 * k + j)


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


# UFOGen


def linear_levels(indices):
    """The levels at indices of the chain of 1,000 steps."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    return level((1 - betas).cumprod(0))[torch.as_tensor(indices)]


def ufogen_module(**options):
    return UFOGenModule(
        network=lambda image_shape, num_classes: FormulaGenerator(),
        discriminator=lambda image_shape, num_classes: FormulaDiscriminator(),
        image_shape=X0.shape[1:],
        sigma_data=1.0,
        total_images=1,
        **options,
    )


def ufogen_draws(t, x_t_noise, real_noise, fake_noise):
    """The draws at the released code's indices t, judged at t - 250, no lower than 0."""
    s = linear_levels((torch.tensor(t) - 250).clamp(min=0))
    return UFOGenDraws(
        noise=noise(x_t_noise),
        real_noise=noise(real_noise),
        fake_noise=noise(fake_noise),
        penalty_noise=noise(0),
        t=linear_levels(t),
        below=s,
        s=s,
        latent=None,
        dropout_seed=0,
    )


def test_ufogen_schedule():
    """The levels of the chain are those of the grid, and its alphas are the recorded ones."""
    record = UFOGEN["alphas_cumprod"]
    indices = [int(i) for i in record]
    sigmas = linear_levels(indices)
    agrees(1 / (1 + sigmas**2), tensor(list(record.values())), 1e-9)
    agrees(LinearBetaGrid()(sigmas), tensor(indices), 1e-9)


def test_ufogen_clamped_losses():
    record = UFOGEN["fixed_logits"]
    logits, other = tensor(record["logits"]).reshape(2, 3).requires_grad_(), torch.full((2, 3), 9.0).double()
    loss = NonSaturating(limit=0.5)
    beyond = math.log1p(math.exp(-0.5))
    losses = {
        "loss_dis_fake": loss.discriminator(other, logits) - beyond,
        "loss_dis_real": loss.discriminator(logits, -other) - beyond,
        "loss_gen": loss.generator(logits, other),
    }
    for name, values in losses.items():
        agrees(values.mean(), tensor(record[name]), 1e-9)
        (slope,) = torch.autograd.grad(values.mean(), logits)
        agrees(slope.flatten(), tensor(record[f"gradient_{name}"]), 1e-9)


@pytest.mark.parametrize("record", UFOGEN["losses"], ids=lambda r: str(r["t_discriminator"]))
def test_ufogen_losses_and_their_gradients(record):
    """Their regression on the noise is ours on x0 by the unclamped signal-to-noise ratio."""
    module = ufogen_module(
        gan_loss=NonSaturating(limit=0.5), reconstruction=ClampedSNR(math.inf), reconstruction_weight=1.0
    )
    draws = ufogen_draws(record["t_discriminator"], 0, 1, 2)
    x0_hat = module.generate(X0, None, draws).detach()
    terms = module.discriminator_terms(X0, x0_hat, None, draws, False).terms
    agrees(terms["discriminator"].mean(), tensor(record["loss_dis_real"] + record["loss_dis_fake"]), 1e-9)
    agrees(gradient(terms["discriminator"], module.critic), tensor(record["gradient_discriminator"]), 1e-9)

    draws = ufogen_draws(record["t_generator"], 4, 0, 5)
    agrees(draws.s, linear_levels(record["t_minus_generator"]), 1e-12)
    x0_hat = module.generate(X0, None, draws)
    fake = module.pair(X0, x0_hat, draws)[1]
    agrees(kept(fake), tensor(record["fake_x_t_minus"]), 1e-9)
    agrees(kept(module.judge(None, draws)(fake)), tensor(record["fake_dis"]), 1e-8)
    terms = module.generator_terms(X0, x0_hat, None, draws)
    agrees(terms["adversarial"].mean(), tensor(record["loss_gen"]), 1e-9)
    agrees(terms["reconstruction"].mean(), tensor(record["loss_c"]), 1e-9)
    ours = torch.autograd.grad(sum(terms.values()).mean(), [module.denoiser.network.a, module.denoiser.network.b])
    agrees(torch.stack(ours), tensor(record["gradient_generator"]), 1e-9)


@pytest.mark.parametrize("record", UFOGEN["sample_from_model"], ids=lambda r: str(r["num_times"]))
def test_ufogen_sampler(record):
    """Theirs draws once more at the end, which is not used."""
    steps = record["num_times"]
    ladder, draws = Ladder(LinearBetaGrid(), steps=4), NoiseSequence(6)
    sigmas = ladder.schedule(steps, 1e-7, linear_levels(999).item())
    assert sigmas == pytest.approx(linear_levels([1000 * (i + 1) // steps - 1 for i in range(steps)][::-1]).tolist())
    denoiser = GeneratorDenoiser(FormulaGenerator(), sigma_data=1.0)
    agrees(
        kept(multistep(denoiser, sigmas[0] * noise(5), sigmas, draws, sigma_min=0.0)), tensor(record["output"]), 1e-8
    )
    assert draws.calls == record["draws"] - 1


@pytest.mark.parametrize(
    "record", SCHEDULER, ids=lambda r: f"{r['beta_schedule']}-{len(r['sigmas'])}-{r['clip_sample']}"
)
def test_ufogen_scheduler(record):
    denoiser, draws, sigmas = GeneratorDenoiser(FormulaGenerator(), sigma_data=1.0), NoiseSequence(6), record["sigmas"]

    def denoise(x, sigma, label=None):
        x0 = denoiser(x, sigma, label)
        return x0.clamp(-1, 1) if record["clip_sample"] else x0

    sample = multistep(denoise, sigmas[0] * noise(5), sigmas, draws, sigma_min=0.0)
    agrees(kept(sample), tensor(record["output"]), 1e-9)
    assert draws.calls == record["draws"]


@pytest.mark.parametrize("record", SCHEDULER[:3], ids=lambda r: str(len(r["sigmas"])))
def test_ufogen_schedulers_linear_levels_are_rungs(record):
    sigmas = tensor(record["sigmas"])
    ours = Ladder(LinearBetaGrid(), len(sigmas)).levels(1e-7, linear_levels(999).item())
    agrees(ours[1:].flip(0), sigmas, 1e-9)


def test_ufogen_schedulers_cosine_levels_are_rungs():
    """All but the top one, which is capped at sigma = 20,000."""
    record = SCHEDULER[8]
    assert (record["beta_schedule"], record["timesteps"]) == ("squaredcos_cap_v2", [999, 749, 499, 249])
    times = CosineGrid()(tensor(record["sigmas"]))
    agrees(times[1:], tensor([0.75, 0.5, 0.25]), 1e-9)
    assert times[0].item() == pytest.approx(1, abs=1e-4)
    rungs = Ladder(CosineGrid(), 4).levels(1e-7, record["sigmas"][0])
    agrees(rungs[1:4].flip(0), tensor(record["sigmas"])[1:], 1e-3)
