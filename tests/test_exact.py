"""The posterior mean of a mixture against Bayes' rule and its two limits; the flow map against the closed form."""

import math

import pytest
import torch
from oracles import FiniteDenoise, GaussianDenoise, GaussianFlow, orders

from datamodules.toy import GaussianMixture
from diffusion.exact import GaussianMixtureDenoise, flow_map
from diffusion.solvers import slope

TOY = GaussianMixture()
EXACT = GaussianMixtureDenoise(TOY.means, TOY.std)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_posterior_mean_is_bayes_rule_by_quadrature():
    """E[x0 | x] = int x0 p(x0) N(x; x0, sigma^2) / int p(x0) N(x; x0, sigma^2) on a grid of the plane."""
    means, std = torch.tensor([[0.5, 0.2], [-0.4, 0.1], [0.0, -0.6]], dtype=torch.float64), 0.15
    axis = torch.linspace(-2, 2, 401, dtype=torch.float64)
    x0 = torch.cartesian_prod(axis, axis)
    prior = (-torch.cdist(x0, means).square() / (2 * std**2)).exp().sum(1)
    x, sigma = normal(6, 2) * 0.5, torch.tensor([0.1, 0.2, 0.3, 0.5, 1.0, 3.0], dtype=torch.float64)
    weight = prior * (-torch.cdist(x, x0).square() / (2 * sigma[:, None] ** 2)).exp()
    expected = weight @ x0 / weight.sum(1, keepdim=True)
    torch.testing.assert_close(GaussianMixtureDenoise(means, std)(x, sigma), expected, rtol=1e-12, atol=1e-12)


def test_posterior_mean_is_tweedies_formula():
    """D = x + sigma^2 grad log p_sigma(x), the gradient by automatic differentiation."""
    x = (normal(50, 2, 1, 1, seed=1) * 0.6).requires_grad_()
    for sigma in (0.002, 0.05, 0.3, 2.0, 80.0):
        variance = TOY.std**2 + sigma**2
        square = torch.cdist(x.flatten(1), TOY.means.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
        log_p = torch.logsumexp(-square / (2 * variance), dim=1).sum()
        expected = x + sigma**2 * torch.autograd.grad(log_p, x)[0]
        torch.testing.assert_close(EXACT(x, sigma), expected, rtol=1e-9, atol=1e-9)


def test_one_mean_is_a_gaussian():
    x, sigma = normal(5, 3, 2, 2), torch.tensor([0.002, 0.1, 0.5, 4.0, 80.0], dtype=torch.float64)
    mixture = GaussianMixtureDenoise(torch.zeros(1, 3, 2, 2), 0.4)
    torch.testing.assert_close(mixture(x, sigma), GaussianDenoise(0.4)(x, sigma), rtol=1e-14, atol=0)


def test_no_width_is_a_finite_data_set():
    data, x = normal(7, 1, 2, 2, seed=2), normal(5, 1, 2, 2)
    sigma = torch.tensor([0.02, 0.1, 0.5, 4.0, 80.0], dtype=torch.float64)
    torch.testing.assert_close(GaussianMixtureDenoise(data, 0.0)(x, sigma), FiniteDenoise(data)(x, sigma))
    nearest = data[torch.cdist(x.flatten(1), data.flatten(1)).argmin(1)]
    torch.testing.assert_close(GaussianMixtureDenoise(data, 1e-9)(x, 0.002), nearest)


@pytest.mark.parametrize("sigma", [0.002, 0.05, 1.0, 80.0])
def test_float32_is_float64_rounded(sigma):
    x = (TOY.means[torch.arange(64) % 8] + math.hypot(sigma, TOY.std) * normal(64, 2).float())[..., None, None]
    single, double = EXACT(x, torch.full((64,), sigma)), EXACT(x.double(), torch.full((64,), sigma).double())
    assert single.dtype == torch.float32 and single.isfinite().all()
    torch.testing.assert_close(single.double(), double, rtol=1e-6, atol=1e-7)


def test_far_points_and_both_shapes_of_means():
    far = torch.tensor([[1e4, 0.0], [0.0, -1e4]])
    assert EXACT(far, 0.002).isfinite().all()
    images = GaussianMixtureDenoise(TOY.means[:, :, None, None], TOY.std)
    x = normal(4, 2, 1, 1)
    assert torch.equal(images(x, 0.3), EXACT(x, 0.3))


def test_what_is_refused():
    for means in (torch.zeros(2), torch.zeros(0, 2)):
        with pytest.raises(ValueError, match="means of shape"):
            GaussianMixtureDenoise(means, 0.1)
    with pytest.raises(ValueError, match="std=-1"):
        GaussianMixtureDenoise(torch.zeros(1, 2), -1)
    with pytest.raises(ValueError, match="x of 3 elements: this mixture's means have 2"):
        EXACT(torch.zeros(4, 3), 1.0)
    with pytest.raises(ValueError, match="sigma=0"):
        flow_map(EXACT, torch.zeros(1, 2), 0, 1.0)
    with pytest.raises(ValueError, match="steps=0"):
        flow_map(EXACT, torch.zeros(1, 2), 1.0, 0.5, steps=0)


def test_flow_of_a_gaussian_is_the_closed_form():
    """x_u = mu + (x_t - mu) sqrt((s^2 + u^2)/(s^2 + t^2)), down and up."""
    mean, s = torch.tensor([[0.3, -0.7]], dtype=torch.float64), 0.5
    denoise, start = GaussianMixtureDenoise(mean, s), 80 * normal(20, 2)
    expected = mean + GaussianFlow(s)(start - mean, 80.0)
    down = flow_map(denoise, start, 80.0, 0.002)
    torch.testing.assert_close(down, expected, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(flow_map(denoise, down, 0.002, 80.0), start, rtol=1e-5, atol=1e-6)


def test_flow_of_the_toy_converges_with_order_four():
    """Halving the step; 256 steps are exact to some 1e-6, 512 to 1e-7 (root mean square)."""
    start = 80 * normal(500, 2, 1, 1, seed=3)
    ends = [flow_map(EXACT, start, 80.0, 0.002, steps) for steps in (64, 128, 256, 512)]
    errors = [float((a - ends[-1]).square().mean().sqrt()) for a in ends[:-1]]
    assert all(3.3 < order < 4.7 for order in orders(errors)), orders(errors)
    assert errors[-1] < 2e-6
    nearest = torch.cdist(ends[-1].flatten(1), TOY.means.double()).amin(1)
    assert float(nearest.square().mean() / 2) ** 0.5 == pytest.approx(TOY.std, rel=0.1)  # the data's law


def test_flow_solves_the_ode():
    """Its derivative by the end level is the slope there."""
    x, t, u, h = normal(10, 2) * 0.6, 0.5, 0.2, 1e-4
    difference = (flow_map(EXACT, x, t, u + h) - flow_map(EXACT, x, t, u - h)) / (2 * h)
    level = torch.full((10,), u, dtype=torch.float64)
    torch.testing.assert_close(difference, slope(EXACT, flow_map(EXACT, x, t, u), level), rtol=1e-5, atol=1e-5)
