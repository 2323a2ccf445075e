"""Samplers and inversion with exact models: what they must give when there is no learning error."""

import math

import pytest
import torch
from oracles import GaussianFlow, gaussian_data

from diffusion.grids import CosineGrid
from diffusion.rng import ImageNoise
from diffusion.samplers import (
    add_initial_noise,
    ancestral,
    image_to_image,
    invert,
    levels_for,
    mixed,
    multistep,
    strength_level,
    zigzag,
)

S, EPS, TOP = 0.5, 0.002, 80.0
SHAPE = (1, 2, 2)
FLOW = GaussianFlow(S)


class Noise:
    """Standard normal draws in float64, kept for the test to see."""

    def __init__(self, n=3, shape=SHAPE):
        self.generator, self.shape, self.drawn = torch.Generator().manual_seed(7), (n, *shape), []

    def __call__(self):
        self.drawn.append(torch.randn(self.shape, dtype=torch.float64, generator=self.generator))
        return self.drawn[-1]


class Counted:
    """Counts the evaluations of a denoiser and keeps their levels and labels."""

    def __init__(self, denoise):
        self.denoise, self.sigmas, self.labels = denoise, [], []

    def __call__(self, x, sigma, label=None, **target):
        self.sigmas.append(sigma[0].item() if isinstance(sigma, torch.Tensor) else sigma)
        self.labels.append(label)
        return self.denoise(x, sigma, label, **target)


class UnitNoise:
    """The k-th draw is the k-th unit vector: of a sampler that is linear, the result holds each draw's coefficient,
    and its squared norm is the variance that independent draws would give."""

    def __init__(self, size=8):
        self.rows = iter(torch.eye(size, dtype=torch.float64).reshape(size, 1, 1, 1, size))

    def __call__(self):
        return next(self.rows)


def start(n=3):
    return TOP * gaussian_data(n, 1.0)


@pytest.mark.parametrize("levels", [(TOP,), (TOP, 2.4), (TOP, 15.0, 2.4, 0.3)])
def test_ancestral_follows_the_trajectory(levels):
    x, flow = start(), Counted(FLOW)
    torch.testing.assert_close(ancestral(flow, x, (*levels, EPS)), FLOW(x, TOP), rtol=1e-12, atol=0)
    assert flow.sigmas == list(levels)


@pytest.mark.parametrize("levels", [(0.07, TOP), (0.07, 15.0, TOP), (EPS, 0.07, 1.0, TOP)])
def test_inversion_and_regeneration_are_one_denoising(levels):
    """From the small initial noise up to T and back to eps is f(x, small -> eps), exactly."""
    noise, x0 = Noise(), gaussian_data(3, S)
    noisy = add_initial_noise(x0, levels[0], noise)
    assert torch.equal(noisy, x0 + levels[0] * noise.drawn[0])
    inverted = invert(FLOW, noisy, levels)
    torch.testing.assert_close(inverted, FLOW(noisy, levels[0], target=TOP), rtol=1e-12, atol=0)
    control = FLOW(noisy, levels[0])
    torch.testing.assert_close(ancestral(FLOW, inverted, (TOP, EPS)), control, rtol=1e-10, atol=0)


def test_inverted_data_have_the_variance_of_the_prior():
    """x0 + small z has variance s^2 + small^2, its image at T s^2 + T^2."""
    noise = UnitNoise()
    inverted = invert(FLOW, add_initial_noise(S * noise(), 0.07, noise), (0.07, 15.0, TOP))
    assert inverted.square().sum().item() == pytest.approx(S**2 + TOP**2, rel=1e-12)


@pytest.mark.parametrize("rounds", [((0.1, 1.2),), ((0.1, 1.2), (0.12, 0.4))])
def test_zigzag_with_the_exact_flow_is_one_denoising_a_round(rounds):
    noise, flow, x = Noise(), Counted(FLOW), gaussian_data(3, S)
    result = zigzag(flow, x, rounds, noise)
    for (small, _), drawn in zip(rounds, noise.drawn, strict=True):
        x = FLOW(x + small * drawn, small)
    torch.testing.assert_close(result, x, rtol=1e-12, atol=0)
    assert flow.sigmas == [level for pair in rounds for level in pair]


def test_mixed_is_ancestral_then_zigzag():
    x, flow, noise = start(), Counted(FLOW), Noise()
    result = mixed(flow, x, (TOP, 3.0, EPS), ((0.12, 0.4),), noise)
    torch.testing.assert_close(result, FLOW(FLOW(x, TOP) + 0.12 * noise.drawn[0], 0.12), rtol=1e-12, atol=0)
    assert flow.sigmas == [TOP, 3.0, 0.12, 0.4]


@pytest.mark.parametrize("levels", [(TOP,), (TOP, 0.821), (TOP, 10.0, 0.821, 0.05)])
def test_multistep_keeps_the_marginals(levels):
    """With the exact consistency model every step returns the variance s^2 + eps^2: noise of variance t^2 - eps^2, not
    t^2, takes it to level t."""
    noise, eps = UnitNoise(), 0.04
    x = math.sqrt(S**2 + TOP**2) * noise()
    result = multistep(GaussianFlow(S, eps), x, levels, noise, sigma_min=eps)
    assert result.square().sum().item() == pytest.approx(S**2 + eps**2, rel=1e-12)
    assert next(noise.rows)[..., len(levels)] == 1  # one draw a level, the start's included


def test_multistep_adds_noise_up_to_each_level():
    x, flow, noise = start(), Counted(FLOW), Noise()
    result = multistep(flow, x, (TOP, 1.5, EPS), noise, sigma_min=EPS)
    middle = FLOW(FLOW(x, TOP) + math.sqrt(1.5**2 - EPS**2) * noise.drawn[0], 1.5)
    torch.testing.assert_close(result, middle, rtol=1e-12, atol=0)  # the last level, eps, adds no noise
    assert flow.sigmas == [TOP, 1.5, EPS] and len(noise.drawn) == 2


@pytest.mark.parametrize("levels", [(TOP,), (0.3,), (5.0, 0.3), (5.0, 1.0, 0.3)])
def test_image_to_image_is_multistep_from_a_noised_image(levels):
    """One evaluation a level; from the first, what the exact map makes of the noised images; clean images are at level
    0, and what the model makes of them at eps, so that the first noise is t and the others sqrt(t^2 - eps^2)."""
    noise, flow, x0 = Noise(), Counted(FLOW), gaussian_data(3, S)
    result = image_to_image(flow, x0, levels, noise, sigma_min=EPS)
    x = FLOW(x0 + levels[0] * noise.drawn[0], levels[0])
    for level, drawn in zip(levels[1:], noise.drawn[1:], strict=True):
        x = FLOW(x + math.sqrt(level**2 - EPS**2) * drawn, level)
    torch.testing.assert_close(result, x, rtol=1e-12, atol=0)
    assert flow.sigmas == list(levels)


@pytest.mark.parametrize("levels", [(TOP,), (0.5,), (10.0, 0.821, 0.05)])
def test_image_to_image_makes_data_of_data(levels):
    """Of data with variance s^2 come data with variance s^2 (at eps: s^2 + eps^2); and of the input is left, in one
    evaluation, its share of the variance at t."""
    noise, eps = UnitNoise(), 0.04
    result = image_to_image(GaussianFlow(S, eps), S * noise(), levels, noise, sigma_min=eps)
    assert result.square().sum().item() == pytest.approx(S**2 + eps**2, rel=1e-12)
    if len(levels) == 1:
        kept = result[..., 0].square().item() / (S**2 + eps**2)
        assert kept == pytest.approx(S**2 / (S**2 + levels[0] ** 2), rel=1e-12)


def test_a_strength_is_a_share_of_the_cosine_time():
    time = CosineGrid()
    low, high = (time(torch.tensor(level, dtype=torch.float64)).item() for level in (EPS, TOP))
    for strength in (1e-6, 0.25, 0.5, 0.9, 1 - 1e-9):
        level = strength_level(strength, EPS, TOP)
        assert EPS < level < TOP
        share = (time(torch.tensor(level, dtype=torch.float64)).item() - low) / (high - low)
        assert share == pytest.approx(strength, rel=1e-6)
    assert strength_level(1.0, EPS, TOP) == TOP
    assert strength_level(0.5, EPS, TOP) == pytest.approx(time.levels(3, EPS, TOP)[1])


@pytest.mark.parametrize(
    "sample",
    [
        lambda d, x, noise, label: multistep(d, x, (TOP, 1.0), noise, label),
        lambda d, x, noise, label: ancestral(d, x, (TOP, 1.0, EPS), label),
        lambda d, x, noise, label: zigzag(d, x, ((0.1, 1.0),), noise, label),
        lambda d, x, noise, label: mixed(d, x, (TOP, EPS), ((0.1, 1.0),), noise, label),
        lambda d, x, noise, label: invert(d, x, (0.07, TOP), label),
        lambda d, x, noise, label: image_to_image(d, x, (1.0, 0.3), noise, label),
    ],
    ids=["multistep", "ancestral", "zigzag", "mixed", "invert", "image_to_image"],
)
def test_labels_and_a_batch_of_one(sample):
    """Labels reach every evaluation; an image alone gives what it gives in a batch."""
    flow, label = Counted(FLOW), torch.tensor([4, 5, 6])
    together = sample(flow, start().float(), ImageNoise([0, 1, 2], SHAPE), label)
    assert together.shape == (3, *SHAPE)
    assert flow.labels and all(given is label for given in flow.labels)
    alone = sample(FLOW, start().float()[1:2], ImageNoise([1], SHAPE), label[1:2])
    torch.testing.assert_close(alone, together[1:2])


def test_the_schedule_of_so_many_evaluations():
    assert levels_for([(80.0, 1.0), (70.0,)], 1) == (70.0,) and levels_for([(80.0, 1.0), (70.0,)], 2) == (80.0, 1.0)


@pytest.mark.parametrize(
    ("call", "value"),
    [
        (lambda x, noise: multistep(FLOW, x, (), noise), r"sigmas=\[\]"),
        (lambda x, noise: multistep(FLOW, x, (1.0, 2.0), noise), "descending"),
        (lambda x, noise: multistep(FLOW, x, (1.0, 1.0), noise), "without repetition"),
        (lambda x, noise: multistep(FLOW, x, (1.0, 0.001), noise), "sigma_min=0.002"),
        (lambda x, noise: ancestral(FLOW, x, (1.0, 2.0)), "descending"),
        (lambda x, noise: ancestral(FLOW, x, (1.0, 0.0)), "> 0"),
        (lambda x, noise: invert(FLOW, x, (80.0, 0.07)), "ascending"),
        (lambda x, noise: invert(FLOW, x, (0.0, 80.0)), "> 0"),
        (lambda x, noise: invert(FLOW, x, ()), r"sigmas=\[\]: .* ascending"),
        (lambda x, noise: zigzag(FLOW, x, ((1.2, 0.1),), noise), "ascending"),
        (lambda x, noise: image_to_image(FLOW, x, (), noise), r"sigmas=\[\]: .* descending"),
        (lambda x, noise: image_to_image(FLOW, x, (0.3, 1.0), noise), "descending"),
        (lambda x, noise: image_to_image(FLOW, x, (1.0, 0.001), noise), "sigma_min=0.002"),
        (lambda x, noise: strength_level(0.0, EPS, TOP), "strength=0.0"),
        (lambda x, noise: strength_level(float("nan"), EPS, TOP), "strength=nan"),
        (lambda x, noise: strength_level(1.1, EPS, TOP), "strength=1.1"),
        (lambda x, noise: levels_for([(80.0,), (80.0, 1.0)], 3), r"steps=3: this model has schedules for \[1, 2\]"),
    ],
)
def test_bad_levels_are_named(call, value):
    with pytest.raises(ValueError, match=value):
        call(start(), Noise())
