"""The conditionals behind a diffusion-GAN's weights: forward steps, posteriors, and the KL of two."""

import math

import pytest
import torch
from gan_points import S, T, alpha_bar, images, vp
from torch.distributions import Independent, Normal, kl_divergence

from diffusion.noise import forward_step, perturb, posterior_sample, posterior_std
from diffusion.weightings import ClampedSNR, ForwardKL


def test_the_forward_kl():
    """Of the variance-preserving q(x_t | x_s) at two points x_s of the same noise, by torch's own formula."""
    x0, x0_hat, noise = images(0, 4, 2, 3, 3), images(1, 4, 2, 3, 3), images(2, 4, 2, 3, 3)
    beta = (T**2 - S**2) / (1 + T**2)

    def step(x_s):
        mean = (1 - beta).sqrt().reshape(-1, 1, 1, 1) * vp(x_s, S)
        return Independent(Normal(mean, beta.sqrt().reshape(-1, 1, 1, 1).expand_as(mean)), 3)

    kl = kl_divergence(step(perturb(x0_hat, noise, S)), step(perturb(x0, noise, S)))
    square = (x0_hat - x0).square().flatten(1).sum(1)
    torch.testing.assert_close(ForwardKL()(T, S) * square, kl, rtol=1e-9, atol=0)
    torch.testing.assert_close((1 - beta) * alpha_bar(S) / (2 * beta) * square, kl, rtol=1e-9, atol=0)
    torch.testing.assert_close(alpha_bar(T) / (2 * beta) * square, kl, rtol=1e-9, atol=0)


def test_the_clamped_snr_looks_at_the_upper_level():
    torch.testing.assert_close(ClampedSNR()(T, S), torch.tensor([5.0, 1 / 0.81, 1 / 9, 1 / 22500]).double())
    torch.testing.assert_close(ClampedSNR(math.inf)(T, S), alpha_bar(T) / (1 - alpha_bar(T)))
    assert torch.equal(ClampedSNR()(T, S), ClampedSNR()(T, S / 2))


def test_a_forward_step_is_the_rest_of_the_noise():
    """Steps of s -> t from x_s = x0 + s z: variances add up to t^2; variance-preserving it is sqrt(1 - beta), beta."""
    x_s, noise = images(0, 4, 2, 3, 3), images(1, 4, 2, 3, 3)
    x_t = forward_step(x_s, noise, S, T)
    torch.testing.assert_close(S**2 + (forward_step(0 * x_s, torch.ones_like(noise), S, T)[:, 0, 0, 0]) ** 2, T**2)
    beta = ((T**2 - S**2) / (1 + T**2)).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(vp(x_t, T), (1 - beta).sqrt() * vp(x_s, S) + beta.sqrt() * noise)


@pytest.mark.parametrize(("s", "t"), list(zip(S.tolist(), T.tolist(), strict=True)))
def test_the_posterior_is_bayes_rule(s, t):
    """q(x_s | x_t, x0) ~ q(x_t | x_s) q(x_s | x0), by quadrature on a line."""
    x0, x_t = 0.4, 0.4 + 1.3 * t
    width = float(posterior_std(torch.tensor(t), torch.tensor(s)))
    centre = x0 + (s / t) ** 2 * (x_t - x0)
    x_s = torch.linspace(centre - 12 * width, centre + 12 * width, 4001, dtype=torch.float64)
    log = -((x_s - x0) ** 2) / (2 * s**2) - (x_t - x_s) ** 2 / (2 * (t**2 - s**2))
    weight = torch.softmax(log, 0)
    mean = (weight * x_s).sum()
    variance = (weight * (x_s - mean) ** 2).sum()

    def sample(noise):
        return posterior_sample(*torch.tensor([[x0], [x_t], [noise], [t], [s]], dtype=torch.float64))[0]

    torch.testing.assert_close(sample(0.0), mean, rtol=1e-9, atol=0)
    torch.testing.assert_close((sample(1.0) - sample(0.0)) ** 2, variance, rtol=1e-6, atol=0)


def test_the_posterior_at_level_0_is_x0():
    x0, x_t, noise = (images(j, 4, 2, 3, 3) for j in range(3))
    assert torch.equal(posterior_sample(x0, x_t, noise, T, torch.zeros_like(T)), x0)


def test_the_posterior_keeps_the_marginal():
    """Of x_t = x0 + t z and then x_s from the posterior: x0 + s z', variance s^2."""
    one, zero = torch.ones(4, 1, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64)
    of_noise = posterior_sample(zero, T[:, None] * one, zero, T, S)
    of_own_noise = posterior_sample(zero, zero, one, T, S)
    torch.testing.assert_close((of_noise**2 + of_own_noise**2)[:, 0], S**2)
