"""Tuning BCM from a consistency model: at step 0 it is that model, up to the two preconditionings' difference."""

import pytest
import torch
from test_networks import both, perturbed, small

from diffusion.denoisers import BidirectionalDenoiser, ConsistencyDenoiser


@both
@pytest.mark.parametrize("sigma", [0.002, 0.01, 0.07, 0.4, 2.4, 80.0])
@torch.no_grad()
def test_denoiser_starts_as_the_consistency_model(kind, sigma):
    """At u = sigma_min c_out is the same and c_skip within 1e-3, so f of unit-variance inputs within 2e-3."""
    one = perturbed(small(kind, num_classes=10))
    two = perturbed(small(kind, num_classes=10, bidirectional=True))
    two.load_unidirectional(one.state_dict())
    consistency, bidirectional = ConsistencyDenoiser(one), BidirectionalDenoiser(two)
    signs = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)).sign()
    label = torch.tensor([0, 3, 9, 3])
    c_in = bidirectional.scalings(torch.tensor([sigma]), torch.tensor([0.002])).c_in
    x = signs / c_in
    before, after = consistency(x, sigma, label), bidirectional(x, sigma, label)
    assert (before - x).abs().max() > 1e-3 or sigma == 0.002  # the networks do something
    assert (after - before).abs().max() <= 2e-3


@both
@torch.no_grad()
def test_target_level_has_no_say_at_first(kind):
    """Between any two levels the tuned network gives what the one-level network gives."""
    one, two = perturbed(small(kind)), small(kind, bidirectional=True)
    two.load_unidirectional(one.state_dict())
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    c_noise = torch.linspace(-1.55, 1.1, 5)
    expected = one(x, c_noise)
    for target in (-1.55, -0.4, 1.1):
        torch.testing.assert_close(two(x, c_noise, c_target=torch.full((5,), target)), expected, rtol=1e-6, atol=1e-6)
