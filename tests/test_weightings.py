"""Weights of a loss by noise level."""

import pytest
import torch
from torch import nn

from diffusion.denoisers import EDMDenoiser
from diffusion.weightings import ConstantGap, EDMWeight, InverseGap

T = torch.logspace(-2.6, 1.9, 30, dtype=torch.float64)


@pytest.mark.parametrize("s", [0.5, 1.2])
def test_edm_weight_undoes_c_out(s):
    """lambda c_out^2 = 1: every level has the same loss at the start, and (t^2 + s^2)/(t s)^2 = 1/t^2 + 1/s^2."""
    c_out = EDMDenoiser(nn.Identity(), sigma_data=s).scalings(T).c_out
    torch.testing.assert_close(EDMWeight(s)(T) * c_out**2, torch.ones_like(T))
    torch.testing.assert_close(EDMWeight(s)(T), 1 / T**2 + 1 / s**2)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_inverse_gap_in_both_directions(power):
    gap = InverseGap(power)
    torch.testing.assert_close(gap(T, T / 4), 1 / (0.75 * T) ** power)
    torch.testing.assert_close(gap(T / 4, T), gap(T, T / 4))


def test_constant_gap():
    assert torch.equal(ConstantGap()(T, T / 2), torch.ones_like(T))
    assert InverseGap(0.0)(T, T / 2).unique().tolist() == [1]
