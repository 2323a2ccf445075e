"""Moments and supports of the two-dimensional distributions."""

import math

import pytest
import torch
from torch import Tensor

from datamodules.toy import Checkerboard, Gaussian, GaussianGrid, GaussianMixture, ToyDataModule, TwoMoons

N = 200_000


def points(distribution: object, n: int = N) -> Tensor:
    return distribution.sample(n, torch.Generator().manual_seed(0)).double()


def check_moments(x: Tensor, mean: tuple[float, float], covariance: list[list[float]]) -> None:
    """Within 5 standard errors; the spread of squares about their mean is at most twice that of a Gaussian."""
    cov = torch.tensor(covariance, dtype=torch.float64)
    spread = cov.diagonal().sqrt()
    assert ((x.mean(0) - torch.tensor(mean)).abs() < 5 * spread / len(x) ** 0.5).all()
    assert ((x.T.cov() - cov).abs() < 10 * torch.outer(spread, spread) / len(x) ** 0.5).all()


def test_gaussian() -> None:
    check_moments(points(Gaussian((0.3, -0.2), 0.4)), (0.3, -0.2), [[0.16, 0], [0, 0.16]])


def test_mixture_lies_around_its_modes() -> None:
    mixture = GaussianMixture(modes=5, radius=0.8, std=0.02)
    x = points(mixture)
    variance = 0.8**2 / 2 + 0.02**2
    check_moments(x, (0, 0), [[variance, 0], [0, variance]])
    distance, mode = torch.cdist(x, mixture.means.double()).min(dim=1)
    assert distance.max() < 0.02 * 6
    assert ((torch.bincount(mode) / N - 1 / 5).abs() < 5 * (0.16 / N) ** 0.5).all()


def test_grid_lies_around_its_points() -> None:
    grid = GaussianGrid(side=3, extent=0.9, std=0.02)
    x = points(grid)
    variance = 0.9**2 * 2 / 3 + 0.02**2
    check_moments(x, (0, 0), [[variance, 0], [0, variance]])
    distance, mode = torch.cdist(x, grid.means.double()).min(dim=1)
    assert distance.max() < 0.02 * 6
    assert ((torch.bincount(mode) / N - 1 / 9).abs() < 5 * (8 / 81 / N) ** 0.5).all()


def test_checkerboard_is_uniform_on_the_dark_fields() -> None:
    x = points(Checkerboard(cells=4, extent=0.9))
    assert x.abs().max() <= 0.9
    field = ((x / 0.9 + 1) * 2).long()
    count = torch.zeros(4, 4).index_put((field[:, 0], field[:, 1]), torch.ones(N), accumulate=True)
    dark = (torch.arange(4)[:, None] + torch.arange(4)) % 2 == 0
    assert (count[~dark] == 0).all()
    assert ((count[dark] / N - 1 / 8).abs() < 5 * (7 / 64 / N) ** 0.5).all()
    inside = (x / 0.9 + 1) * 2 - field
    check_moments(inside, (0.5, 0.5), [[1 / 12, 0], [0, 1 / 12]])


def test_moons_are_two_half_circles() -> None:
    moons = TwoMoons(radius=0.5, std=1e-4)
    x = points(moons) / 0.5
    upper = (x - torch.tensor([-0.5, -0.25])).norm(dim=1)
    lower = (x - torch.tensor([0.5, 0.25])).norm(dim=1)
    on_upper = ((upper - 1).abs() < 2e-3) & (x[:, 1] > -0.252)
    on_lower = ((lower - 1).abs() < 2e-3) & (x[:, 1] < 0.252)
    assert (on_upper ^ on_lower).all()
    assert abs(on_upper.double().mean() - 0.5) < 5 * 0.5 / N**0.5
    # E x^2 = E (cos a - 1/2)^2, E y^2 = E (sin a - 1/4)^2, a uniform on [0, pi]
    xx, yy = 3 / 4, 1 / 2 + 1 / 16 - 1 / math.pi
    xy = 1 / 8 - 1 / math.pi
    check_moments(points(TwoMoons(radius=1.0, std=0.1)), (0, 0), [[xx + 0.01, xy], [xy, yy + 0.01]])


@pytest.mark.parametrize("distribution", [Gaussian(), GaussianGrid(), GaussianMixture(), Checkerboard(), TwoMoons()])
def test_datamodule_of_points(distribution: object) -> None:
    data = ToyDataModule(distribution, n=300, n_test=200, batch_size=64)
    assert (data.image_shape, data.num_classes) == ((2, 1, 1), 0)
    x0, label = next(iter(data.train_dataloader()))
    assert x0.shape == (64, 2, 1, 1) and x0.dtype == torch.float32 and label is None
    train, test = data.split("train")[0], data.split("test")[0]
    assert len(train) == 300 and len(test) == 200 and not torch.equal(train[:200], test)
    again = ToyDataModule(distribution, n=300, n_test=200, batch_size=64, seed=1)
    assert torch.equal(train, again.split("train")[0])
    assert "300 points, 200 held out" in data.describe() and type(distribution).__name__ in data.describe()
    with pytest.raises(ValueError, match="no uint8"):
        data.uint8_images("test")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gaussian(std=0.0), "std=0.0"),
        (lambda: GaussianMixture(modes=0), "modes=0"),
        (lambda: GaussianGrid(side=1), "side=1"),
        (lambda: GaussianGrid(std=0.0), "std=0.0"),
        (lambda: Checkerboard(cells=3), "cells=3"),
        (lambda: TwoMoons(radius=-1.0), "radius=-1.0"),
        (lambda: ToyDataModule(Gaussian(), n=0), "n=0"),
    ],
)
def test_impossible_sizes_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
