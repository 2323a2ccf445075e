"""Measurements against exact solutions: a perfect model has the solver's error alone, a wrong one its known error."""

import math
from types import SimpleNamespace

import pytest
import torch
from methods import METHODS, images
from oracles import ExactBidirectionalNetwork, FiniteDenoise, GaussianFlow, gaussian_data
from torch import nn

from datamodules import Checkerboard, DigitsDataModule, Gaussian, GaussianGrid, ToyDataModule, TwoMoons
from datamodules.memory import InMemoryDataModule
from diffusion.denoisers import BidirectionalDenoiser, EDMDenoiser
from evaluation.distances import GaussianKernels, directions_in, sliced_wasserstein
from evaluation.law import Law, in_batches
from evaluation.resampling import set_distance
from evaluation.truth import (
    gaussianity,
    generates_along_the_ode,
    generation_error,
    inversion_truth,
    is_map,
    log_spaced,
    map_errors,
    mean_errors,
    posterior_mean_of,
)
from evaluation.truth_sets import set_distances

S, EPS, TOP = 0.5, 0.002, 80.0
SHAPE = (1, 2, 2)
GAUSSIAN = Law(torch.zeros(1, *SHAPE), S)
EXACT = BidirectionalDenoiser(ExactBidirectionalNetwork(S), S)
LEVELS = log_spaced(3, EPS, TOP)
DIRECTIONS = directions_in(4, 32, torch.Generator().manual_seed(0))


class Zero(nn.Module):
    """With EDM's scalings the posterior mean of Gaussian data; with BCM's no inversion at all."""

    def forward(self, x, c_noise, label=None, c_target=None):
        return torch.zeros_like(x)


class Wrong(nn.Module):
    """The exact denoiser, its answers times a factor."""

    sigma_min, sigma_max = EPS, TOP

    def __init__(self, factor):
        super().__init__()
        self.factor, self.network = factor, EXACT.network

    def forward(self, x, sigma, label=None, target=None):
        return self.factor * EXACT(x, sigma, label, target)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# the law


def test_trajectories_are_those_of_the_closed_form():
    """Up, down and at rest; half the steps have 16 times the error."""
    x, flow = gaussian_data(30, 1.0), GaussianFlow(S, EPS)
    for sigma, target in ((TOP, EPS), (0.07, TOP), (1.0, 1.0)):
        torch.testing.assert_close(GAUSSIAN.follow(x, sigma, target), flow(x, sigma, target=target), rtol=1e-4, atol=0)
    fine, coarse = ((GAUSSIAN.follow(x, TOP, EPS, None, c) - flow(x, TOP)).abs().max() for c in (False, True))
    assert 12 < coarse / fine < 24


def test_fresh_points_have_the_laws_moments_and_classes():
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, 2.0]]).reshape(3, 2, 1, 1)
    law = Law(means, 0.1, torch.tensor([0, 4, 4]))
    x, label = law.draw(30_000, generator())
    assert float((label == 4).double().mean()) == pytest.approx(2 / 3, abs=0.01)
    first = x[label == 0].flatten(1)
    assert first.mean(0).tolist() == pytest.approx([1, 0], abs=0.005)
    assert first.std(0).tolist() == pytest.approx([0.1, 0.1], rel=0.05)
    noisy, _ = law.draw_at(2.0, 30_000, generator())
    assert float((noisy.var(0) - x.var(0)).mean()) == pytest.approx(4, rel=0.05)


def test_each_class_has_a_law_of_its_own():
    """A finite set of two classes, against softmax weights over the images of the class; trajectories end there."""
    data, labels = images(8), torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])
    law, x, label = Law(data, 0.0, labels), gaussian_data(6, 1.0), torch.tensor([0, 1, 1, 0, 0, 1])
    assert law.finite and not GAUSSIAN.finite
    expected = torch.empty_like(x)
    for k in (0, 1):
        expected[label == k] = FiniteDenoise(data[labels == k].double())(x[label == k], 0.6)
    torch.testing.assert_close(law.mean(x, 0.6, label), expected)
    torch.testing.assert_close(law.mean(x, 0.6), FiniteDenoise(data.double())(x, 0.6))
    ends = law.follow(TOP * x, TOP, EPS, label).flatten(1)
    nearest = torch.cdist(ends, data.double().flatten(1)).min(1)
    assert labels[nearest.indices].tolist() == label.tolist() and nearest.values.max() < 5 * EPS
    with pytest.raises(ValueError, match="label=7: the data have the classes"):
        law.mean(x[:1], 0.6, torch.tensor([7]))


def test_what_a_datamodule_tells_of_its_law():
    grid = ToyDataModule(GaussianGrid(side=3, extent=0.9, std=0.02), n=5)
    means, labels, std = grid.components(1)
    assert means.shape == (9, 2, 1, 1) and labels is None and std == 0.02
    means, _, std = ToyDataModule(Gaussian((0.3, -0.2), 0.4), n=5).components(1)
    assert means.flatten().tolist() == pytest.approx([0.3, -0.2]) and std == 0.4
    for distribution in (Checkerboard(), TwoMoons()):
        with pytest.raises(ValueError, match=r"has no exact solution here.*GaussianMixture"):
            ToyDataModule(distribution, n=5).components(10**9)
    means, labels, std = DigitsDataModule().components(10**6)
    assert means.shape == (1437, 1, 8, 8) and len(labels) == 1437 and std == 0
    assert (float(means.min()), float(means.max())) == (-1, 1)
    with pytest.raises(ValueError, match=r"91,968 values, allowed are 91,967"):
        DigitsDataModule().components(91_967)


def test_mirrored_images_belong_to_the_law():
    class Two(InMemoryDataModule):
        image_shape, num_classes, source = (1, 2, 2), 0, "two images"

        def load_split(self, split):
            return torch.tensor([[[[0, 255], [0, 0]]], [[[0, 0], [255, 0]]]], dtype=torch.uint8), torch.tensor([3, 5])

    assert len(Two(1).components(8)[0]) == 2
    means, labels, _ = Two(1, flip=True).components(16)
    assert labels.tolist() == [3, 5, 3, 5] and torch.equal(means[2:], means[:2].flip(3))
    with pytest.raises(ValueError, match="4 images of 4 values are too many"):
        Two(1, flip=True).components(15)


# errors of networks


def test_a_perfect_map_has_the_solvers_error():
    """The closed form against Runge-Kutta: what is left is a fifteenth of what halving the steps changes."""
    rows = map_errors(EXACT, GAUSSIAN, LEVELS, 100, batch_size=33)
    assert [row.sigma for row in rows] == pytest.approx([0.0684, 2.34, 80], rel=1e-3)
    for row in rows:
        assert row.error < row.solver / 5 + 1e-7 and row.solver < 1e-4
        assert row.constant == pytest.approx(S, rel=0.15) and row.points == 100


@pytest.mark.parametrize("factor", [1.1, 0.5])
def test_a_wrong_map_has_its_known_error(factor):
    for row in map_errors(Wrong(factor), GAUSSIAN, LEVELS, 200):
        assert row.error == pytest.approx(abs(factor - 1) * row.constant, rel=0.01)  # the mean is 0 but by chance


def test_a_perfect_diffusion_model_is_the_posterior_mean():
    rows = mean_errors(EDMDenoiser(Zero(), S), GAUSSIAN, LEVELS, 100)
    assert all(row.error < 1e-6 and row.solver == 0 for row in rows)
    # another standard deviation of the data: the coefficients of x differ
    for row in mean_errors(EDMDenoiser(Zero(), 2 * S), GAUSSIAN, LEVELS, 2000):
        right, wrong = (s**2 / (s**2 + row.sigma**2) for s in (S, 2 * S))
        assert row.error == pytest.approx((wrong - right) * math.hypot(S, row.sigma), rel=0.03)


def test_a_model_that_is_told_the_class_is_measured_by_class():
    data, labels = images(8), torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])
    law = Law(data, 0.0, labels)
    told = mean_errors(lambda x, t, k: law.denoise(x, t, k), law, [0.5, 5.0], 50)
    untold = mean_errors(lambda x, t, k: FiniteDenoise(data)(x, t), law, [0.5, 5.0], 50)
    assert all(row.error < 1e-6 for row in told) and untold[1].error > 0.05


def test_a_generator_of_one_level_is_compared_at_that_level():
    flow = GaussianFlow(S, EPS)

    def module(factor):
        def sample(noise, steps, label=None):
            return factor * flow(TOP * noise(), TOP)

        return SimpleNamespace(ema_denoiser=EDMDenoiser(Zero()), image_shape=SHAPE, sample=sample)

    right, wrong = (generation_error(module(factor), GAUSSIAN, 100) for factor in (1, 1.2))
    assert right.sigma == TOP and right.error < right.solver + 1e-6
    assert wrong.error == pytest.approx(0.2 * wrong.constant, rel=0.02)


MAPS, MEANS, GENERATORS = {"bcm", "ct", "cd", "ctm"}, {"edm", "rf", "ctm"}, {"kd", "pd", "reflow"}


@pytest.mark.parametrize("method", METHODS)
def test_what_the_network_of_a_method_means(method):
    """A generator of a GAN, alone, means nothing of this."""
    module, name = method(), method.__name__
    assert is_map(module.ema_denoiser) == (name in MAPS)
    assert (posterior_mean_of(module) is not None) == (name in MEANS)
    assert generates_along_the_ode(module) == (name in GENERATORS)


@pytest.mark.parametrize("inversions", [((0.07, TOP),), ((0.07, TOP), (0.07, 15.0, TOP))])
def test_a_perfect_inversion(inversions):
    rows, noise = inversion_truth(EXACT, GAUSSIAN, inversions, 400, DIRECTIONS)
    assert [row.nfe for row in rows] == [1, 2][: len(inversions)]
    for row in rows:
        assert row.error < row.solver + 1e-5
        # x0 + 0.07 n is shrunk by c = s/sqrt(s^2 + 0.07^2), both ways
        c = S / math.hypot(S, 0.07)
        assert row.exact == pytest.approx(math.hypot((1 - c) * S, c * 0.07), rel=0.06)
        assert row.round_trip == pytest.approx(row.exact, rel=1e-4) and row.control == pytest.approx(
            row.exact, rel=1e-4
        )
    learned, exact, floor = noise[0], noise[-2], noise[-1]
    assert (exact.name, floor.name) == ("exact, 0.07 > 80", "normal draws")
    for row in (learned, exact, floor):
        assert row.mean < 0.15 and row.skewness < 0.4 and abs(row.kurtosis) < 0.5 and row.sliced_wasserstein < 0.2
        assert row.std == pytest.approx(1, rel=0.1)


def test_a_model_that_cannot_invert():
    """With F = 0 the noise is c_skip x: too small by a known factor, and nothing of the data comes back."""
    (row,), noise = inversion_truth(BidirectionalDenoiser(Zero(), S), GAUSSIAN, [(0.07, TOP)], 400, DIRECTIONS)
    variance = S**2 + 0.07**2
    c_skip, exact = (S**2 + 0.07 * TOP) / variance, math.sqrt((S**2 + TOP**2) / variance)
    assert row.error == pytest.approx((exact - c_skip) * math.sqrt(variance) / TOP, rel=0.06)
    assert noise[0].std == pytest.approx(c_skip * math.sqrt(variance) / TOP, rel=0.06)
    assert noise[0].sliced_wasserstein > 5 * noise[-1].sliced_wasserstein
    assert row.round_trip > 3 * row.exact


def test_gaussianity_sees_shift_skewness_and_tails():
    normal = torch.randn(20_000, 4, generator=generator(1)).double()
    uniform = torch.rand(20_000, 1, 2, 2, generator=generator(2)).double()
    flat = gaussianity("", 2 * math.sqrt(3) * (uniform - 0.5) + 0.3, normal, DIRECTIONS)
    assert (flat.mean, flat.std, flat.kurtosis) == pytest.approx((0.3, 1, -1.2), abs=0.03)
    assert flat.skewness < 0.05 and flat.sliced_wasserstein > 0.25
    skewed = gaussianity("", -uniform.log() - 1, normal, DIRECTIONS)  # exponential: skewness 2, excess kurtosis 6
    assert skewed.skewness == pytest.approx(2, abs=0.2) and skewed.kurtosis == pytest.approx(6, abs=1.5)


# sets of points


class Sampler:
    """A method that generates N(shift, S^2 I) from its noise."""

    image_shape, num_classes = SHAPE, 0

    def __init__(self, shift=0.0):
        self.ema_denoiser, self.shift = EXACT, shift

    def sample(self, noise, steps, label=None):
        return S * noise() + self.shift


def test_the_true_law_is_at_the_floor_and_a_shift_is_not():
    rows = set_distances(Sampler(), GAUSSIAN, None, 300, DIRECTIONS, resamples=50)
    assert [row.against for row in rows] == ["fresh"] * 3 and [row.points for row in rows] == [300] * 3
    for row in rows:  # with little noise of sigma_min as well
        sw, mmd = row.sliced_wasserstein, row.squared_mmd
        assert sw.low <= sw.value <= sw.high < 0.12 and mmd.low < 0 < mmd.high
    made, floor, _ = set_distances(Sampler(0.2), GAUSSIAN, None, 300, DIRECTIONS, resamples=50)
    shift = 0.2 * float(DIRECTIONS.sum(1).square().mean().sqrt())
    assert made.sliced_wasserstein.value == pytest.approx(shift, rel=0.2)
    assert made.sliced_wasserstein.low > floor.sliced_wasserstein.high and made.squared_mmd.low > 0.01
    assert floor == rows[1]  # whatever the samples are


def test_held_out_images_are_told_from_the_set_that_was_learned():
    """Fresh data of a finite set are the set itself: they are near it, and not nearer to others than others are."""
    law, unseen = Law(images(100), 0.0), 0.3 + images(600)[400:]
    rows = set_distances(Sampler(), law, unseen, 300, DIRECTIONS, resamples=20)
    assert [(row.name, row.against, row.points) for row in rows[3:]] == [
        ("samples, NFE 0", "held out", 200),
        ("floor: fresh", "held out", 200),
    ]
    floor, made = rows[4].sliced_wasserstein.value, rows[3].sliced_wasserstein.value
    assert floor > rows[1].sliced_wasserstein.value + 0.1

    def usual(draw):
        """Mean distance of ten sets from the images."""
        sets = [draw(seed).flatten(1) for seed in range(10)]
        return sum(sliced_wasserstein(points, unseen.flatten(1), DIRECTIONS) for points in sets) / 10

    assert floor == pytest.approx(usual(lambda seed: law.draw(200, generator(seed))[0]), rel=0.15)
    assert made == pytest.approx(usual(lambda seed: gaussian_data(200, S, seed=seed)), rel=0.15) and made != floor


def test_everything_is_a_function_of_the_seed():
    def measured(seed, batch_size):
        shared = {"seed": seed, "batch_size": batch_size}
        return (
            map_errors(EXACT, GAUSSIAN, LEVELS, 20, **shared),
            inversion_truth(EXACT, GAUSSIAN, [(0.07, TOP)], 20, DIRECTIONS, **shared),
            set_distances(Sampler(), GAUSSIAN, None, 20, DIRECTIONS, resamples=20, **shared),
        )

    first = measured(3, 20)
    assert first == measured(3, 20)
    assert all(a != b for a, b in zip(first, measured(4, 20), strict=True))
    assert [row.error for row in measured(3, 7)[0]] == pytest.approx([row.error for row in first[0]], rel=1e-6)


def test_what_is_refused():
    with pytest.raises(ValueError, match="1 of 3 outputs of the model are not finite"):
        in_batches(lambda x, k: x / torch.tensor([1.0, 0.0, 1.0]).reshape(3, 1, 1, 1), torch.ones(3, 1, 1, 1), None, 3)
    with pytest.raises(ValueError, match="resamples=5"):
        set_distance(
            "", "", images(3), images(3), DIRECTIONS, GaussianKernels((1.0,)), resamples=5, generator=generator()
        )
    with pytest.raises(ValueError, match="widths"):
        GaussianKernels.around(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="2 labels for 1 means"):
        Law(torch.zeros(1, 2), 1.0, torch.zeros(2))
    with pytest.raises(ValueError, match="steps=1"):
        Law(torch.zeros(1, 2), 1.0, steps=1)
    with pytest.raises(ValueError, match="count=0"):
        log_spaced(0, EPS, TOP)
