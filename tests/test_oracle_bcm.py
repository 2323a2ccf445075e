"""The methods with the exact networks of Gaussian data: what is left of losses, samples and inversions.

Data N(0, s^2 I), s = sigma_data. All in float64, so that what is left is the discretisation's alone.
"""

import pytest
import torch
from oracles import (
    ExactBidirectionalNetwork,
    ExactConsistencyNetwork,
    GaussianDenoise,
    GaussianFlow,
    gaussian_data,
    orders,
)
from torch import nn

from diffusion.curricula import ConstantSteps
from diffusion.denoisers import BidirectionalDenoiser
from diffusion.distances import PseudoHuber, SquaredL2
from diffusion.levels import LogNormal
from diffusion.noise import karras_grid
from diffusion.pairs import GridPairs
from diffusion.weightings import ConstantGap, InverseGap
from lightning_modules.bcm import BCMDraws, BCMModule
from lightning_modules.ct import CTDraws, CTModule
from lightning_modules.diffusion import DiffusionDraws, DiffusionModule

S, EPS, TOP = 0.5, 0.002, 80.0
SHAPE = (1, 2, 2)
FLOW = GaussianFlow(S)


class Noise:
    """Standard normal draws in float64 in the place of an ImageNoise, which draws in float32."""

    def __init__(self, n=4, seed=1):
        self.shape, self.generator, self.drawn = (n, *SHAPE), torch.Generator().manual_seed(seed), []

    def __call__(self):
        self.drawn.append(torch.randn(self.shape, dtype=torch.float64, generator=self.generator))
        return self.drawn[-1]


class Zero(nn.Module):
    """EDM's exact network: c_skip x is the posterior mean already."""

    def forward(self, x, c_noise, label=None, c_target=None):
        return torch.zeros_like(x)


def bcm(distance=None, weight=None, n=18, **options):
    return BCMModule(
        network=lambda image_shape, num_classes: ExactBidirectionalNetwork(S),
        image_shape=SHAPE,
        pairs=GridPairs(ConstantSteps(n)),
        distance=distance or SquaredL2(),
        weight=weight or ConstantGap(),
        target_weight=weight or ConstantGap(),
        total_images=1,
        sigma_data=S,
        **options,
    ).double()


def ct(distance=None, weight=None):
    return CTModule(
        network=lambda image_shape, num_classes: ExactConsistencyNetwork(S),
        image_shape=SHAPE,
        pairs=GridPairs(ConstantSteps(18)),
        distance=distance or SquaredL2(),
        weight=weight or ConstantGap(),
        total_images=1,
        sigma_data=S,
    ).double()


def consistency_loss(module, x0, noise, t, s):
    if isinstance(module, BCMModule):
        return module.loss_terms(x0, None, BCMDraws(noise, t, s, torch.full_like(t, 3.0), 0))[0]
    return module.loss_at(x0, None, CTDraws(noise, t, s, 0))


def neighbours(part, n, batch):
    """t at a fixed part of a grid of n intervals, so that it stays where it is when n doubles, and s below it."""
    grid, index = karras_grid(n), round(part * n)
    return grid[index].expand(batch), grid[index - 1].expand(batch)


@pytest.mark.parametrize("make", [bcm, ct])
@pytest.mark.parametrize("part", [0.25, 0.5, 0.75, 1.0])
def test_residual_at_the_posterior_mean_falls_with_the_square_of_the_gap(make, part):
    """With E[x0 | x_t] in the place of x0 the target point is the PF ODE's Euler step: a local error of order 2."""
    module, errors = make(), []
    for n in (64, 128, 256, 512):
        t, s = neighbours(part, n, 4)
        x_t = gaussian_data(4, 1.0) * (S**2 + t**2).sqrt().reshape(-1, 1, 1, 1)
        x0 = GaussianDenoise(S)(x_t, t)
        noise = (x_t - x0) / t.reshape(-1, 1, 1, 1)
        errors.append(consistency_loss(module, x0, noise, t, s).mean().sqrt())
    assert orders(errors) == pytest.approx([2, 2, 2], abs=0.15)


@pytest.mark.parametrize("make", [bcm, ct])
def test_loss_vanishes_as_the_grid_is_refined(make):
    """For true pairs (x0, z) the two points lie on different trajectories: the residual falls with the gap itself."""
    module, losses = make(), []
    for n in (64, 128, 256, 512):
        t, s = neighbours(0.5, n, 4)
        losses.append(consistency_loss(module, gaussian_data(4, S), Noise()(), t, s).mean())
    assert orders(losses) == pytest.approx([2, 2, 2], abs=0.15)  # of the squared distance


@pytest.mark.parametrize("distance", [SquaredL2(), PseudoHuber()], ids=repr)
def test_bidirectional_term_is_the_consistency_term(distance):
    """By whatever level u, up or down, the exact network goes: t -> u -> eps ends where t -> eps does."""
    module, x0 = bcm(distance), gaussian_data(6, S)
    t, s = karras_grid(10)[[1, 2, 4, 6, 8, 10]], karras_grid(10)[[0, 1, 3, 5, 7, 9]]
    for u in (EPS, 0.05, 1.0, 30.0, TOP):
        consistency, bidirectional = module.loss_terms(x0, None, BCMDraws(Noise(6)(), t, s, torch.full_like(t, u), 0))
        torch.testing.assert_close(bidirectional, consistency, rtol=1e-7, atol=1e-14)


def test_the_whole_loss_vanishes_with_the_curriculum():
    """Draws of the module's own, iCT's weight 1/gap: the squared residual over the gap falls with the gap."""
    x0 = gaussian_data(512, S)
    losses = [bcm(weight=InverseGap(), n=n).loss_terms(x0, None, _draws(x0, n))[0].mean() for n in (40, 80, 160, 320)]
    assert orders(losses) == pytest.approx([1, 1, 1], abs=0.2)


def _draws(x0, n):
    drawn = bcm(n=n).draw(x0)
    return BCMDraws(drawn.noise, *(level.double() for level in drawn[1:4]), 0)


def test_edm_loss_of_the_exact_network_is_one():
    """lambda(t) E||x0 - E[x0|x_t]||^2/dim = 1 at every level. The mean is exact for x0 and z along two axes."""
    module = DiffusionModule(
        network=lambda image_shape, num_classes: Zero(),
        image_shape=SHAPE,
        levels=LogNormal(-1.2, 1.2),
        total_images=1,
        sigma_data=S,
    ).double()
    axes = 2 * torch.eye(4, dtype=torch.float64).reshape(4, *SHAPE)  # of mean square 1, as standard normal images
    t = torch.tensor([0.002, 0.3, 5.0, 80.0], dtype=torch.float64)
    loss = module.loss_at(S * axes[:1].expand(4, *SHAPE), None, DiffusionDraws(axes[1:2].expand(4, *SHAPE), t, 0))
    torch.testing.assert_close(loss, torch.ones_like(t))


def test_edm_sampler_converges_to_the_flow():
    module = DiffusionModule(
        network=lambda image_shape, num_classes: Zero(),
        image_shape=SHAPE,
        levels=LogNormal(-1.2, 1.2),
        total_images=1,
        sigma_data=S,
    ).double()
    errors = []
    for n in (40, 80, 160, 320):
        noise = Noise()
        sample = module.sample(noise, 2 * n + 1)
        errors.append((sample - GaussianDenoise(S)(FLOW(TOP * noise.drawn[0], TOP), EPS)).abs().max())
    assert orders(errors) == pytest.approx([2, 2, 2], abs=0.1)


@pytest.mark.parametrize(("steps", "rounds"), [(1, ()), (2, ()), (3, (0.1,)), (4, (0.12,))])
def test_samples_of_the_exact_network(steps, rounds):
    """One or two steps give the flow's end; every zigzag round one denoising of a little noise more."""
    noise, module, calls = Noise(), bcm(), []
    module.ema_denoiser.network.register_forward_hook(lambda *_: calls.append(1))
    sample = module.sample(noise, steps)
    truth = FLOW(TOP * noise.drawn[0], TOP)
    for small, drawn in zip(rounds, noise.drawn[1:], strict=True):
        truth = FLOW(truth + small * drawn, small)
    torch.testing.assert_close(sample, truth, rtol=1e-9, atol=0)
    assert len(calls) == steps


def test_samples_of_the_exact_consistency_network():
    noise, module = Noise(), ct()
    torch.testing.assert_close(module.sample(noise, 1), FLOW(TOP * noise.drawn[0], TOP), rtol=1e-9, atol=0)


@pytest.mark.parametrize("steps", [1, 2])
def test_inversion_of_the_exact_network(steps):
    """Up to the noise of the exact flow; and back to the one denoising that is every inversion's control."""
    noise, module, x0 = Noise(), bcm(), gaussian_data(4, S)
    inverted = module.invert(x0, noise, steps)
    start = x0 + 0.07 * noise.drawn[0]
    torch.testing.assert_close(inverted, FLOW(start, 0.07, target=TOP), rtol=1e-9, atol=0)
    torch.testing.assert_close(module.ema_denoiser(inverted, TOP), FLOW(start, 0.07), rtol=1e-9, atol=0)


def test_the_round_trip_of_the_exact_network_loses_nothing():
    """t -> u -> t is where it began, and one that stays at the data is not: its distance is the one of the equation."""
    x0, u = gaussian_data(6, S), torch.full((6,), 3.0, dtype=torch.float64)
    t, s = karras_grid(10)[[1, 2, 4, 6, 8, 10]], karras_grid(10)[[0, 1, 3, 5, 7, 9]]
    module = bcm(round_trip_weight=0.5)
    draws = BCMDraws(Noise(6)(), t, s, u, 0)
    assert module.loss_terms(x0, None, draws)[2].max() < 1e-20

    class AtTheData(BidirectionalDenoiser):
        def forward(self, x, sigma, label=None, target=None):
            return x0

    module.denoiser = AtTheData(module.denoiser.network, S)
    module.fused = False
    scale = S / (S**2 + t**2).sqrt()
    expected = 0.5 * (scale * t) ** 2 * draws.noise.square().flatten(1).mean(1)
    torch.testing.assert_close(module.loss_terms(x0, None, draws)[2], expected)
