"""What keeps a discriminator smooth: R1, R2 and their approximation."""

import numpy as np
import pytest
import torch
from gan_points import images, slope
from torch import nn

from diffusion.adversarial import (
    ApproximatePenalty,
    GradientPenalty,
    squared_gradient,
)


class Linear(nn.Module):
    """D = w x summed over the elements, or at every place."""

    def __init__(self, summed=True):
        super().__init__()
        self.w, self.summed = nn.Parameter(images(7, 2, 3, 3)), summed

    def forward(self, x):
        return (self.w * x).flatten(1).sum(1) if self.summed else self.w * x


REAL, FAKE, NOISE = (images(j, 5, 2, 3, 3) for j in range(3))


@pytest.mark.parametrize("fake", [False, True])
def test_gradient_penalty_of_a_linear_critic(fake):
    """gamma/2 ||w||^2 wherever it is taken, and gamma w its gradient in the weights."""
    critic, sides = Linear(), 1 + fake
    penalty = GradientPenalty(0.3, fake=fake)(critic, REAL, FAKE, NOISE)
    torch.testing.assert_close(penalty, sides * 0.15 * critic.w.square().sum().expand(5))
    torch.testing.assert_close(slope(penalty.mean(), critic.w), sides * 0.3 * critic.w)


def test_gradient_penalty_of_a_quadratic_critic():
    """D = w ||x||^2: gamma/2 times 4 w^2 ||x||^2, R1 of the data and R2 of the samples."""
    w = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    squares = [x.square().flatten(1).sum(1) for x in (REAL, FAKE)]

    def judge(x):
        return w * x.square().flatten(1).sum(1)

    for fake in (False, True):
        penalty = GradientPenalty(0.3, fake=fake)(judge, REAL, FAKE, NOISE)
        norm = squares[0] + (squares[1] if fake else 0)
        torch.testing.assert_close(penalty, 0.15 * 4 * w**2 * norm)
        torch.testing.assert_close(slope(penalty, w), 0.15 * 8 * w * norm.sum())


def test_gradient_penalty_of_many_logits_is_of_their_mean():
    critic = Linear(summed=False)
    torch.testing.assert_close(squared_gradient(critic, REAL), (critic.w / 18).square().sum().expand(5))


@pytest.mark.parametrize("kind", [GradientPenalty, ApproximatePenalty])
def test_lazy_penalties(kind):
    every = kind()(Linear(), REAL, FAKE, NOISE)
    torch.testing.assert_close(kind(interval=15)(Linear(), REAL, FAKE, NOISE), 15 * every)
    torch.testing.assert_close(kind(interval=15, scaled=False)(Linear(), REAL, FAKE, NOISE), every)
    assert kind(interval=15).interval == 15


def test_ddgans_gamma_is_in_effect_divided_by_the_interval():
    theirs = GradientPenalty(0.02, interval=15, scaled=False)(Linear(), REAL, FAKE, NOISE) / 15
    torch.testing.assert_close(theirs, GradientPenalty(0.02 / 15)(Linear(), REAL, FAKE, NOISE))


def test_no_gradient_goes_to_the_points():
    real, judge = REAL.clone().requires_grad_(), Linear()
    penalty = GradientPenalty()(lambda x: judge(x) ** 2, real, FAKE, NOISE).sum()
    to_weights, to_points = torch.autograd.grad(penalty, [judge.w, real], allow_unused=True)
    assert to_weights.norm() > 0 and to_points is None


@pytest.mark.parametrize("fake", [False, True])
def test_approximate_penalty_of_a_linear_critic(fake):
    """weight (sigma w noise)^2, at the data and at the samples by the same noise."""
    critic = Linear()
    expected = (1 + fake) * 3.0 * 0.1**2 * critic(NOISE) ** 2
    torch.testing.assert_close(ApproximatePenalty(3.0, 0.1, fake=fake)(critic, REAL, FAKE, NOISE), expected)


def test_approximate_penalty_of_many_logits_is_the_mean_of_their_squares():
    critic = Linear(summed=False)
    expected = 3.0 * 0.1**2 * (critic.w * NOISE).square().flatten(1).mean(1)
    torch.testing.assert_close(ApproximatePenalty(3.0, 0.1)(critic, REAL, FAKE, NOISE), expected)


def test_approximate_penalty_becomes_r1():
    """On a curved critic in expectation, with gamma = 2 weight sigma^2: they differ by a share of order sigma^2."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(40))
    noise, x = nodes[:, None], torch.full((40, 1), 0.7, dtype=torch.float64)

    def judge(x):
        return (1.3 * x).sin().sum(1) + 0.4 * (x**2).sum(1)

    apart = []
    for sigma in (0.1, 0.01, 0.001):
        values = ApproximatePenalty(50.0, sigma)(judge, x, x, noise)
        mean = (weights * values).sum() / weights.sum()
        exact = GradientPenalty(2 * 50.0 * sigma**2)(judge, x, x, noise)[0]
        apart.append(abs((mean / exact).item() - 1))
    assert apart[0] < 0.05 and apart[1] < 1.1e-2 * apart[0] and apart[2] < 1e-5
