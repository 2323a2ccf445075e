"""Amplified beside added noise, by a model of Gaussian images that makes no error."""

import pytest
import torch
from methods import bcm
from test_scores_inversion import ExactNetwork, gaussian_images

from diffusion.rng import ImageNoise
from evaluation.features import extract, feature_network_for
from evaluation.inversion import squared_error
from evaluation.variations import ADDED, AMPLIFIED, score_variations, varied

S = 0.25
"""Standard deviation of the images."""


@pytest.fixture
def exact():
    module = bcm(sigma_data=S).eval()
    module.denoiser.network = module.ema.evaluated.network = ExactNetwork()
    return module.ema_denoiser


def test_amplification_changes_nothing_in_a_perfect_model(exact):
    """f(., large -> eps) after f(., small -> large) is f(., small -> eps), whatever the level."""
    images, small = gaussian_images(50), 0.2
    noise = ImageNoise(range(50), (1, 8, 8))
    once = exact(images.float() / 127.5 - 1 + small * noise(), small)
    for large in (0.5, 2.0, 80.0):
        made = varied(exact, images, small, large)
        assert (made.float() - (once * 127.5 + 128).clamp(0, 255)).abs().max() < 1.01


def test_added_noise_makes_another_image(exact):
    """x0 + large z is scaled to the data's deviation: the mean squared distance is known."""
    images = gaussian_images(400)
    for large in (0.25, 1.0, 80.0):
        made = varied(exact, images, None, large)
        shrunk = S / (S**2 + large**2) ** 0.5  # of the flow's end, up to sigma_min
        expected = ((1 - shrunk) ** 2 * S**2 + shrunk**2 * large**2) / 4  # on [0, 1]
        assert float(squared_error(made, images).mean()) == pytest.approx(expected, rel=0.05)


def test_scores_in_order(exact):
    judge = feature_network_for((1, 8, 8))
    images = gaussian_images(60)
    rounds = [(0.1, 1.0), (0.3, 1.0), (0.1, 2.0)]
    found = score_variations(exact, judge, images, extract(judge, gaussian_images(60)), rounds, batch_size=25)
    assert [(v.noise, v.small, v.large) for v in found] == [
        (AMPLIFIED, 0.1, 1.0), (AMPLIFIED, 0.3, 1.0), (AMPLIFIED, 0.1, 2.0), (ADDED, None, 1.0), (ADDED, None, 2.0)
    ]  # fmt: skip
    little, more, other, added, most = found
    assert little.error == pytest.approx(other.error, rel=0.02) and little.error < more.error < added.error < most.error
    assert little.feature_error < added.feature_error and "fd_digits" in little.quality


def test_levels_out_of_order_are_refused(exact):
    with pytest.raises(ValueError, match="ascending"):
        varied(exact, gaussian_images(2), 1.0, 0.5)
    assert torch.equal(
        varied(exact, gaussian_images(4), 0.1, 0.5, batch_size=3), varied(exact, gaussian_images(4), 0.1, 0.5)
    )
