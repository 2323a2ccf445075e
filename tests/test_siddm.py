"""SIDDM's own terms: restated by their formulae, and without gradient where the sample's law is the data's."""

from functools import partial

import pytest
import torch
from methods import gradients, images, siddm

from diffusion.denoisers import EDMDenoiser
from diffusion.noise import expand
from lightning_modules.checkpoint import CheckpointError, _load_network
from networks import MLP


def squared(a, b):
    return (a - b).square().flatten(1).mean(1)


def given(**options):
    module, x0 = siddm(**options).double(), images().double()
    draws = module.draw(x0)
    x_s = x0 + expand(draws.s, x0) * draws.noise
    x_t = x_s + expand((draws.t**2 - draws.s**2).sqrt(), x0) * draws.step_noise
    return module, x0, draws, x_s, x_t


def test_the_terms_are_their_formulae():
    """w = 1/(2 (t^2 - s^2)); C adds sqrt(t^2 - s^2) F_C, B has EDM's scalings and weight. The levels are float32."""
    module, x0, draws, x_s, x_t = given(forward_weight=0.7, denoising_weight=0.3)
    t, s = draws.t.double(), draws.s.double()
    x0_hat, w = module.generate(x0, None, draws), 1 / (2 * (t**2 - s**2))
    variance = (s * (t**2 - s**2).sqrt() / t) ** 2
    ratio = expand((s / t) ** 2, x0)
    sample = (1 - ratio) * x0_hat + ratio * x_t + expand(variance.sqrt(), x0) * draws.posterior_noise

    def c(x):
        seen = x * expand(1 / (0.25 + s**2).sqrt(), x0)
        _, decoded = module.critic.network.decode(seen, s.log() / 4, None)
        return x + expand((t**2 - s**2).sqrt(), x0) * decoded[:, 1:]

    terms = module.generator_terms(x0, x0_hat, None, draws)
    torch.testing.assert_close(terms["forward"], 0.7 * w * (squared(sample, x_t) - squared(c(sample), x_t)))
    verdict = module.discriminator_terms(x0, x0_hat, None, draws, False)
    torch.testing.assert_close(verdict.terms["regression"], 0.7 * w * squared(c(sample), x_t))

    class Half(torch.nn.Module):
        def forward(self, seen, level, label):
            return module.critic.network.decode(seen, level, label)[1][:, :1]

    denoised = EDMDenoiser(Half(), 0.5)(x_s, s)
    weight = (s**2 + 0.25) / (0.5 * s) ** 2
    torch.testing.assert_close(verdict.terms["denoising"], 0.3 * weight * squared(denoised, x0), rtol=1e-5, atol=1e-6)


def test_the_forward_term_has_no_gradient_where_the_laws_agree():
    """There C(x) = x, the forward process's mean; with C a constant instead, the gradient is that of the first half."""
    module, x0, draws, _, _ = given()
    torch.nn.init.zeros_(module.critic.network.second.weight)
    x0_hat = module.generate(x0, None, draws)
    forward = module.generator_terms(x0, x0_hat, None, draws)["forward"]
    torch.testing.assert_close(forward, torch.zeros_like(forward))
    assert gradients(forward, module.denoiser).abs().max() < 1e-9
    module.critic.decode = lambda x_s, s, t, label: (x_s.flatten(1).sum(1), x_s, x_s.detach())
    forward = module.generator_terms(x0, x0_hat, None, draws)["forward"]
    assert gradients(forward, module.denoiser).abs().max() > 1e-3


def test_a_latent_starts_anew_beside_a_diffusion_models_weights():
    """All but the mapping network of the latent is the diffusion model's; anything else that lacks is told."""
    make = partial(MLP, (1, 2, 2), width=8, depth=1, embedding_channels=4)
    network, source = make(latent_size=3), make()
    _load_network(network, source.state_dict(), "model.ckpt")
    own = network.state_dict()
    assert all(torch.equal(own[key], value) for key, value in source.state_dict().items())
    lacking = {key: value for key, value in source.state_dict().items() if key != "layer_in.weight"}
    with pytest.raises(CheckpointError, match=r"it lacks layer_in\.weight$"):
        _load_network(network, lacking, "model.ckpt")
