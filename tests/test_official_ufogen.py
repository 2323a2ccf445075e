"""UFOGen against numbers recorded from xuyanwu/SIDDMs-UFOGen at 382cddc and diffusers' UFOGenScheduler at 58eb52c."""

import json
import math
from pathlib import Path

import pytest
import torch
from recorded.official import X0, NoiseSequence, agrees, noise, tensor
from recorded.official_gan import (
    FormulaDiscriminator,
    FormulaGenerator,
    gradient,
    kept,
    level,
)

from diffusion.adversarial import NonSaturating
from diffusion.denoisers import GeneratorDenoiser
from diffusion.grids import CosineGrid, LinearBetaGrid
from diffusion.ladder import Ladder
from diffusion.samplers import multistep
from diffusion.weightings import ClampedSNR
from lightning_modules.ufogen import UFOGenDraws, UFOGenModule

FOLDER = Path(__file__).parent / "recorded"
UFOGEN = json.loads((FOLDER / "siddm_ufogen.json").read_text())["ufogen"]
SCHEDULER = json.loads((FOLDER / "ufogen_scheduler.json").read_text())["UFOGenScheduler"]


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
