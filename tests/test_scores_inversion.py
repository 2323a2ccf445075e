"""Inversion scores against the exact flow map of Gaussian data, and against a denoiser that forgets."""

import math

import pytest
import torch
from torch import nn

from diffusion.denoisers import BidirectionalDenoiser
from evaluation.inversion import score_inversion, squared_error

SIGMA_DATA = 0.25  # narrow enough that clipping to [-1, 1] changes next to nothing


class ExactNetwork(nn.Module):
    """The network that makes BidirectionalDenoiser exact for data N(0, s^2 I): x_u = x_t sqrt((s^2+u^2)/(s^2+t^2)).

    F(z) = s (t - u) / (sqrt((s^2 + t^2)(s^2 + u^2)) + s^2 + t u) z
    """

    def forward(self, x, c_noise, label=None, c_target=None):
        t, u = (4 * c_noise.double()).exp(), (4 * c_target.double()).exp()
        s2 = SIGMA_DATA**2
        factor = SIGMA_DATA * (t - u) / (((s2 + t**2) * (s2 + u**2)).sqrt() + s2 + t * u)
        return (factor.reshape(-1, 1, 1, 1) * x).to(x.dtype)


class Zero(nn.Module):
    def forward(self, x, c_noise, label=None, c_target=None):
        return torch.zeros_like(x)


def gaussian_images(n=200):
    x = SIGMA_DATA * torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return (x * 127.5 + 128).clip(0, 255).to(torch.uint8)


@pytest.mark.parametrize(("levels", "evaluations"), [((0.07, 80.0), 1), ((0.07, 15.0, 80.0), 2)])
def test_a_perfect_model_loses_no_more_than_denoising(levels, evaluations):
    images = gaussian_images()
    result = score_inversion(BidirectionalDenoiser(ExactNetwork(), SIGMA_DATA), images, levels, batch_size=64)
    assert (result.nfe_in, result.nfe_out) == (evaluations, 1)
    assert result.error == pytest.approx(result.denoising_error, rel=1e-2)
    # x0 + 0.07 n is shrunk by c = s/sqrt(s^2 + 0.07^2): error (1 - c)^2 s^2 + c^2 0.07^2, halved twice for [0, 1]
    c = SIGMA_DATA / math.hypot(SIGMA_DATA, 0.07)
    expected = ((1 - c) ** 2 * SIGMA_DATA**2 + (c * 0.07) ** 2) / 4
    assert result.denoising_error == pytest.approx(expected, rel=0.05)
    assert result.variance == pytest.approx(float((images / 255).var(0, correction=0).mean()), rel=1e-5)
    assert result.noise_ratio == pytest.approx(1, rel=0.02)


def test_a_model_that_forgets_is_found_out():
    """With F = 0 the noise is c_skip(0.07, 80) x and nothing of the image comes back."""
    result = score_inversion(BidirectionalDenoiser(Zero(), SIGMA_DATA), gaussian_images(), (0.07, 80.0))
    assert result.error > 0.9 * result.variance > 10 * result.denoising_error
    c_skip = (SIGMA_DATA**2 + 0.07 * 80) / (SIGMA_DATA**2 + 0.07**2)
    assert result.noise_ratio == pytest.approx(c_skip * math.hypot(SIGMA_DATA, 0.07) / 80, rel=0.05)


def test_the_result_does_not_depend_on_the_batch_size():
    denoise = BidirectionalDenoiser(ExactNetwork(), SIGMA_DATA)
    one, other = (score_inversion(denoise, gaussian_images(20), (0.07, 80.0), batch_size=b) for b in (3, 20))
    assert one.error == pytest.approx(other.error, rel=1e-6)


def test_squared_error_is_on_the_unit_interval():
    black, white = torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.full((2, 1, 3, 3), 255, dtype=torch.uint8)
    assert squared_error(black, white).tolist() == [1, 1]


def test_float_images_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        score_inversion(BidirectionalDenoiser(Zero()), torch.zeros(2, 1, 8, 8), (0.07, 80.0))
