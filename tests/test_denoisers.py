"""Preconditioning: boundaries, reductions, unit variance, precision, and tuning from a consistency model."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import (
    ExactBidirectionalNetwork,
    ExactConsistencyNetwork,
    GaussianDenoise,
    GaussianFlow,
    SmallNetwork,
    gaussian_data,
)
from torch import nn

from diffusion.denoisers import BidirectionalDenoiser, ConsistencyDenoiser, Denoiser, EDMDenoiser
from networks import MLP, UNet

S, EPS = 0.5, 0.002
levels = st.floats(EPS, 80.0)
DENOISERS = [EDMDenoiser, ConsistencyDenoiser, BidirectionalDenoiser]
GRID = torch.logspace(-2.6, 1.9, 40, dtype=torch.float64)


class Recorder(nn.Module):
    """Returns zeros and keeps what it was given."""

    def forward(self, *args):
        self.args = args
        return torch.zeros_like(args[0])


class Half(nn.Module):
    """F(z) = z/2, of any precision."""

    def forward(self, x, c_noise, label=None, c_target=None):
        return x / 2


@settings(deadline=None, max_examples=50)
@given(t=levels, seed=st.integers(0, 10**6), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_bidirectional_boundary_for_random_networks(t, seed, dtype):
    """f(x, t, t) = x exactly, for every t, whatever the network."""
    denoise = BidirectionalDenoiser(SmallNetwork(seed=seed)).to(dtype)
    x = gaussian_data(3, 1 + t, seed=seed).to(dtype)
    assert torch.equal(denoise(x, t, target=t), x)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), eps=st.floats(1e-4, 0.1), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_consistency_boundary_for_random_networks(seed, eps, dtype):
    """f(x, eps) = x exactly."""
    denoise = ConsistencyDenoiser(SmallNetwork(seed=seed), sigma_min=eps).to(dtype)
    x = gaussian_data(3, 1.0, seed=seed).to(dtype)
    assert torch.equal(denoise(x, eps), x)
    assert not torch.equal(denoise(x, 2 * eps), x)


@settings(deadline=None, max_examples=50)
@given(t=levels, u=st.floats(0, 80.0), s=st.floats(0.1, 3))
def test_bidirectional_scalings_keep_unit_variance(t, u, s):
    """For data of variance s^2: input of variance 1; F's target (x_u - c_skip x_t)/c_out of variance 1, the least
    that any c_skip leaves. x_t = x0 + t z and x_u = x0 + u z."""
    t, u = torch.tensor([t], dtype=torch.float64), torch.tensor([u], dtype=torch.float64)
    c_skip, c_out, c_in = BidirectionalDenoiser(nn.Identity(), sigma_data=s).scalings(t, u)
    torch.testing.assert_close(c_in**2 * (s**2 + t**2), torch.ones_like(t))

    def remaining(c):
        return s**2 * (1 - c) ** 2 + (u - c * t) ** 2

    torch.testing.assert_close(remaining(c_skip), c_out**2, rtol=1e-6, atol=1e-10)
    assert remaining(c_skip) <= min(remaining(c_skip + 1e-3), remaining(c_skip - 1e-3))
    assert (c_out * (t - u) >= 0).all()  # signed: negative on the way up


def test_bidirectional_scalings_at_zero_are_edms():
    ours = BidirectionalDenoiser(nn.Identity()).scalings(GRID, torch.zeros_like(GRID))
    torch.testing.assert_close(tuple(ours), tuple(EDMDenoiser(nn.Identity()).scalings(GRID)))


def test_scalings_of_the_published_tables():
    """EDM table 1; consistency models appendix C, whose c_out has t under the root and t - eps above it."""
    c_skip, c_out, c_in = EDMDenoiser(nn.Identity()).scalings(GRID)
    torch.testing.assert_close(c_skip, S**2 / (GRID**2 + S**2))
    torch.testing.assert_close(c_out, GRID * S / torch.sqrt(S**2 + GRID**2))
    torch.testing.assert_close(c_in, 1 / torch.sqrt(S**2 + GRID**2))
    c_skip, c_out, c_in = ConsistencyDenoiser(nn.Identity()).scalings(GRID)
    torch.testing.assert_close(c_skip, S**2 / ((GRID - EPS) ** 2 + S**2))
    torch.testing.assert_close(c_out, S * (GRID - EPS) / torch.sqrt(S**2 + GRID**2))
    torch.testing.assert_close(c_in, 1 / torch.sqrt(S**2 + GRID**2))


def test_consistency_scalings_without_eps_are_edms():
    """The teacher's scalings are the student's at eps -> 0."""
    ours = ConsistencyDenoiser(nn.Identity(), sigma_min=1e-12).scalings(GRID)
    torch.testing.assert_close(tuple(ours), tuple(EDMDenoiser(nn.Identity()).scalings(GRID)))


def test_bidirectional_is_nearly_a_consistency_denoiser():
    """At u = eps c_out and c_in are equal; the rest moves an output by at most 2e-3 standard deviations."""
    eps = torch.full_like(GRID, EPS)
    two = BidirectionalDenoiser(nn.Identity()).scalings(GRID, eps)
    one = ConsistencyDenoiser(nn.Identity()).scalings(GRID)
    torch.testing.assert_close(two.c_out, one.c_out, rtol=1e-12, atol=0)
    assert torch.equal(two.c_in, one.c_in)
    assert ((two.c_skip - one.c_skip).abs() * (S**2 + GRID**2).sqrt()).max() < 2.0e-3


UNET = {"channels": 16, "channel_mult": (1, 2), "num_blocks": 1, "attention_resolutions": (2,), "dropout": 0.1}


@pytest.mark.parametrize(
    ("network", "num_classes", "options"),
    [(MLP, 0, {"width": 16, "depth": 2}), (MLP, 3, {"width": 16, "depth": 2, "dropout": 0.1}), (UNet, 3, UNET)],
)
def test_tuning_starts_at_the_consistency_model(network, num_classes, options):
    """Root mean square difference at most 2e-3, for inputs of unit variance, from any level; and u has no effect."""
    one = network((1, 4, 4), num_classes, **options)
    two = network((1, 4, 4), num_classes, **options, bidirectional=True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.normal_(0, 0.2, generator=generator)
    two.load_unidirectional(one.state_dict())
    consistency, bidirectional = ConsistencyDenoiser(one.eval()), BidirectionalDenoiser(two.eval())
    t = GRID[::2].float()
    x = gaussian_data(len(t), 1.0, (1, 4, 4)).float()
    x = x / x.square().mean((1, 2, 3), keepdim=True).sqrt() * (S**2 + t**2).sqrt().reshape(-1, 1, 1, 1)
    label = torch.arange(len(t)) % 3 if num_classes else None
    with torch.no_grad():
        before, after = consistency(x, t, label), bidirectional(x, t, label)
        difference = (before - after).square().flatten(1).mean(1).sqrt()
        assert difference.max() < 2e-3
        assert (before - x).abs().max() > 0.1  # the networks do something
        z, c = torch.randn(len(t), 1, 4, 4), t.log() / 4
        torch.testing.assert_close(two(z, c, label, c.flip(0)), one(z, c, label))


@pytest.mark.parametrize("s", [0.5, 1.3])
def test_exact_networks_give_the_exact_flow(s):
    x = gaussian_data(len(GRID), 1.0) * (s**2 + GRID**2).sqrt().reshape(-1, 1, 1, 1)
    flow = GaussianFlow(s)
    consistency = ConsistencyDenoiser(ExactConsistencyNetwork(s), sigma_data=s)
    torch.testing.assert_close(consistency(x, GRID), flow(x, GRID), rtol=1e-9, atol=1e-12)
    bidirectional = BidirectionalDenoiser(ExactBidirectionalNetwork(s), sigma_data=s)
    for u in (EPS, 0.07, 1.0, 80.0):
        torch.testing.assert_close(bidirectional(x, GRID, target=u), flow(x, GRID, target=u), rtol=1e-9, atol=1e-12)
    zero = EDMDenoiser(Recorder(), sigma_data=s)  # c_skip x is the posterior mean already
    torch.testing.assert_close(zero(x, GRID), GaussianDenoise(s)(x, GRID), rtol=1e-12, atol=0)


def test_exact_network_is_bounded_and_antisymmetric():
    """|F*| < 1, F*(t, u) = -F*(u, t) and 0 at u = t: a target that a network can learn in both directions."""
    network, one = ExactBidirectionalNetwork(S), torch.ones(len(GRID) ** 2, 1, dtype=torch.float64)
    t, u = (v.log() / 4 for v in torch.cartesian_prod(GRID, GRID).T)
    f = network(one, t, None, u)
    assert f.abs().max() < 1
    torch.testing.assert_close(f, -network(one, u, None, t))
    assert network(one, t, None, t).abs().max() == 0


@pytest.mark.parametrize("kind", DENOISERS)
def test_what_the_network_is_given(kind):
    """c_in x, ln(t)/4, the label and, where there is a target level, ln(u)/4."""
    denoise = kind(Recorder())
    x, t = gaussian_data(3, 1.0), torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    label = torch.tensor([0, 1, 2])
    denoise(x, t, label)
    z, c_noise, given_label, *c_target = denoise.network.args
    torch.testing.assert_close(z, x / (S**2 + t**2).sqrt().reshape(-1, 1, 1, 1))
    torch.testing.assert_close(c_noise, t.log() / 4)
    assert given_label is label
    if kind is BidirectionalDenoiser:
        torch.testing.assert_close(c_target[0], torch.full((3,), EPS, dtype=torch.float64).log() / 4)
        denoise(x, t, label, target=2.0)
        torch.testing.assert_close(denoise.network.args[3], torch.full((3,), 2.0, dtype=torch.float64).log() / 4)
    else:
        assert not c_target


@pytest.mark.parametrize("kind", DENOISERS)
@pytest.mark.parametrize("batch", [1, 4])
def test_levels_are_numbers_or_tensors(kind, batch):
    denoise = kind(SmallNetwork())
    x = gaussian_data(batch, 1.0).float()
    expected = denoise(x, 3.0)
    assert expected.shape == x.shape and expected.dtype == torch.float32
    for sigma in (torch.tensor(3.0), torch.tensor([3.0]), torch.full((batch,), 3.0, dtype=torch.float64)):
        torch.testing.assert_close(denoise(x, sigma), expected)
    alone = torch.cat([denoise(image[None], 3.0) for image in x])
    torch.testing.assert_close(alone, expected)
    with pytest.raises(RuntimeError):
        denoise(x, torch.ones(batch + 1))


def test_target_levels_are_numbers_or_tensors():
    denoise, x = BidirectionalDenoiser(SmallNetwork()), gaussian_data(4, 1.0).float()
    u = torch.tensor([0.01, 0.5, 3.0, 80.0])
    together = denoise(x, 3.0, target=u)
    for i, level in enumerate(u.tolist()):
        torch.testing.assert_close(denoise(x, 3.0, target=level)[i], together[i])
    assert torch.equal(denoise(x, 3.0), denoise(x, 3.0, target=EPS))


@pytest.mark.parametrize("kind", DENOISERS)
def test_float32_around_a_network_under_autocast(kind):
    """The network works in bfloat16, scalings and output in float32: its error enters multiplied by c_out alone."""
    denoise = kind(SmallNetwork())
    outputs = []
    denoise.network.register_forward_hook(lambda module, args, output: outputs.append(output))
    x, t = 80 * gaussian_data(4, 1.0).float(), torch.tensor([0.01, 0.5, 20.0, 80.0])
    exact = denoise(x, t)
    with torch.autocast("cpu", torch.bfloat16):
        rough = denoise(x, t)
    assert outputs[0].dtype == torch.float32 and outputs[1].dtype == torch.bfloat16
    assert rough.dtype == torch.float32
    target = [torch.full_like(t, EPS)] if kind is BidirectionalDenoiser else []
    c_out = denoise.scalings(t, *target).c_out.reshape(-1, 1, 1, 1)
    torch.testing.assert_close(rough - exact, c_out * (outputs[1].float() - outputs[0]), rtol=1e-3, atol=1e-5)


def test_boundary_is_exact_under_autocast():
    denoise, x = BidirectionalDenoiser(SmallNetwork()), gaussian_data(4, 30.0).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(denoise(x, 30.0, target=30.0), x)
        assert torch.equal(ConsistencyDenoiser(SmallNetwork())(x, EPS), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_levels_of_half_precision_images_are_float32(dtype):
    denoise = EDMDenoiser(Half())
    x = torch.ones(2, 1, 2, 2, dtype=dtype)
    assert denoise.levels_like(x, 0.3).dtype == torch.float32
    assert denoise.levels_like(x, torch.tensor([0.3, 0.4], dtype=torch.float64)).dtype == torch.float32
    assert denoise(x, 0.3).dtype == dtype


@pytest.mark.parametrize("kind", DENOISERS)
@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"sigma_data": 0.0}, "sigma_data=0.0"),
        ({"sigma_min": 0.0}, "sigma_min=0.0"),
        ({"sigma_min": 2.0, "sigma_max": 1.0}, "sigma_max=1.0"),
    ],
)
def test_bad_arguments_are_named(kind: type[Denoiser], options, value):
    with pytest.raises(ValueError, match=value):
        kind(nn.Identity(), **options)
