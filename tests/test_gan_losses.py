"""What the two sides of a diffusion-GAN minimise, and where they come to rest."""

import math

import numpy as np
import pytest
import torch
from gan_points import images, slope
from torch.distributions import Normal
from torch.nn import functional as F

from diffusion.adversarial import (
    Hinge,
    NonSaturating,
    Relativistic,
    per_image,
)

LOSSES = [NonSaturating(), Relativistic(), Hinge()]


def test_losses_in_closed_form():
    real, fake = images(0, 6), images(1, 6)
    one, zero = torch.ones(6).double(), torch.zeros(6).double()
    bce = F.binary_cross_entropy_with_logits
    saturating = bce(real, one, reduction="none") + bce(fake, zero, reduction="none")
    torch.testing.assert_close(NonSaturating().discriminator(real, fake), saturating)
    torch.testing.assert_close(NonSaturating().generator(fake, real), bce(fake, one, reduction="none"))
    torch.testing.assert_close(Relativistic().discriminator(real, fake), bce(real - fake, one, reduction="none"))
    torch.testing.assert_close(Relativistic().generator(fake, real), bce(fake - real, one, reduction="none"))
    torch.testing.assert_close(Hinge().discriminator(real, fake), (1 - real).clamp(0) + (1 + fake).clamp(0))
    torch.testing.assert_close(Hinge().generator(fake, real), -fake)


@pytest.mark.parametrize(("loss", "value"), list(zip(LOSSES, (2 * math.log(2), math.log(2), 2), strict=True)), ids=repr)
def test_a_discriminator_that_knows_nothing(loss, value):
    assert loss.discriminator(torch.zeros(3), torch.zeros(3)).tolist() == pytest.approx([value] * 3)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_the_mean_over_places(loss):
    real, fake = images(0, 5, 2, 3, 3), images(1, 5, 2, 3, 3)
    for side in (lambda r, f: loss.discriminator(r, f), lambda r, f: loss.generator(f, r)):
        places = torch.stack([side(r, f) for r, f in zip(real.flatten(1).T, fake.flatten(1).T, strict=True)])
        torch.testing.assert_close(side(real, fake), places.mean(0))
    assert per_image(real[:, 0, 0, 0]).shape == (5,)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_who_looks_at_the_data(loss):
    """The generator's side depends on the data's logits if and only if the loss is relativistic."""
    fake, real = images(0, 4).requires_grad_(), images(1, 4).requires_grad_()
    slopes = torch.autograd.grad(loss.generator(fake, real).sum(), [fake, real], allow_unused=True)
    assert loss.relativistic == (slopes[1] is not None) and (slopes[0] < 0).all()


def test_limited_logits():
    """Inside the limit all is as without one, beyond it on the right side there is no gradient."""
    limited, free = NonSaturating(limit=0.5), NonSaturating()
    inside = torch.tensor([-0.49, 0.0, 0.3, 0.49], requires_grad=True)
    right = torch.tensor([0.51, 3.0], requires_grad=True)
    other = torch.zeros(4)
    for side in (
        lambda loss, x: loss.discriminator(x, other[: len(x)]),
        lambda loss, x: loss.discriminator(other[: len(x)], -x),
        lambda loss, x: loss.generator(x, other[: len(x)]),
    ):
        assert torch.equal(side(limited, inside), side(free, inside))
        assert torch.equal(slope(side(limited, inside), inside), slope(side(free, inside), inside))
        assert (slope(side(limited, right), right) == 0).all() and (slope(side(free, right), right) != 0).all()
        wrong = (-right.detach()).requires_grad_()
        assert torch.equal(slope(side(limited, wrong), wrong), slope(side(free, wrong), wrong))


# One-dimensional data N(M, V) and a generator x0' = a x_t + b z + c: both marginals at the level s are Gaussian, and
# the best discriminator, ln of their ratio, is a quadratic. Expectations are sums over Gauss-Hermite nodes.

M, V, LEVEL_T, LEVEL_S = 0.7, 0.6, 2.0, 0.4
WRONG = [(0.3, 0.4, 0.1), (0.1, 1.1, 0.5), (0.25, 0.1, 1.2)]


def moments(theta):
    """Mean and variance of x0'."""
    a, b, c = theta
    return a * M + c, a**2 * (V + LEVEL_T**2) + b**2


def optimum(a=0.2):
    """A generator of the data's law."""
    return torch.tensor([a, math.sqrt(V - a**2 * (V + LEVEL_T**2)), M - a * M], dtype=torch.float64)


def judged_law(mean, variance):
    """Of x0 + s noise, x0 ~ N(mean, variance)."""
    mean, variance = (torch.as_tensor(v, dtype=torch.float64) for v in (mean, variance))
    return Normal(mean, (variance + LEVEL_S**2).sqrt())


def coefficients(theta):
    """k of the best discriminator k_0 + k_1 x + k_2 x^2 of a generator."""
    q, p = judged_law(M, V), judged_law(*moments(theta.detach()))
    constant = (p.scale / q.scale).log() + (p.mean / p.scale) ** 2 / 2 - (q.mean / q.scale) ** 2 / 2
    linear = q.mean / q.variance - p.mean / p.variance
    return torch.stack([constant, linear, (1 / p.variance - 1 / q.variance) / 2])


def quadratic(k):
    return lambda x: k[0] + k[1] * x + k[2] * x**2


def expected(loss, side, theta, judge, n=100):
    """The mean loss of a side over all x_s and x_s'."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(n))
    weights = weights / weights.sum()
    real, fake = (judge(law.mean + law.scale * nodes) for law in (judged_law(M, V), judged_law(*moments(theta))))
    if loss.relativistic:  # all pairs
        real, fake, weights = real.repeat_interleave(n), fake.repeat(n), torch.outer(weights, weights).flatten()
    losses = loss.discriminator(real, fake) if side == "discriminator" else loss.generator(fake, real.detach())
    return (weights * losses).sum()


def distance(theta):
    """Squared Wasserstein distance of x0' from the data."""
    mean, variance = moments(theta)
    return ((mean - M) ** 2 + (variance.sqrt() - math.sqrt(V)) ** 2).item()


def divergences(theta, points=20_001):
    """KL(p||q) and the Jensen-Shannon divergence of the marginals at the level s, by the trapezoidal rule."""
    q, p, x = judged_law(M, V), judged_law(*moments(theta)), torch.linspace(-14, 14, points, dtype=torch.float64)
    log_p, log_q = p.log_prob(x), q.log_prob(x)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    half = [torch.trapezoid(log.exp() * (log - log_m), x) / 2 for log in (log_p, log_q)]
    return torch.trapezoid(log_p.exp() * (log_p - log_q), x), sum(half)


@pytest.mark.parametrize("theta", WRONG, ids=str)
@pytest.mark.parametrize("loss", LOSSES[:2], ids=repr)
def test_the_best_discriminator_is_the_log_ratio(loss, theta):
    theta = torch.tensor(theta, dtype=torch.float64)
    best = coefficients(theta)
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)
    ratio = judged_law(M, V).log_prob(x) - judged_law(*moments(theta)).log_prob(x)
    torch.testing.assert_close(quadratic(best)(x), ratio)

    def slope_at(k):
        k = k.clone().requires_grad_()
        return slope(expected(loss, "discriminator", theta, quadratic(k)), k)

    assert slope_at(best).abs().max() < 1e-6
    for shift in torch.eye(3)[1:].double():
        assert slope_at(best + 0.1 * shift).norm() > 1e-3


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_the_generator_rests_where_its_law_is_the_datas(loss):
    for a in (-0.1, 0.0, 0.2):
        theta = optimum(a).requires_grad_()
        assert distance(theta) < 1e-12
        judge = quadratic(coefficients(theta))
        assert slope(expected(loss, "generator", theta, judge), theta).abs().max() < 1e-12


@pytest.mark.parametrize("theta", WRONG, ids=str)
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_the_generator_goes_to_the_data_from_elsewhere(loss, theta):
    theta = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
    gradient = slope(expected(loss, "generator", theta, quadratic(coefficients(theta))), theta)
    assert gradient.norm() > 1e-2
    assert distance(theta - 0.01 * gradient) < distance(theta) - 1e-4


@pytest.mark.parametrize("theta", WRONG, ids=str)
def test_what_the_generator_descends(theta):
    """Against the log ratio -D is KL(p||q), and softplus(-D) is KL(p||q) - 2 JS (Arjovsky & Bottou, 1701.04862)."""
    theta = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
    judge = quadratic(coefficients(theta))
    kl, js = divergences(theta)
    hinge = slope(expected(Hinge(), "generator", theta, judge), theta)
    saturating = slope(expected(NonSaturating(), "generator", theta, judge), theta)
    (of_kl,), (of_both,) = (torch.autograd.grad(d, theta, retain_graph=True) for d in (kl, kl - 2 * js))
    torch.testing.assert_close(hinge, of_kl, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(saturating, of_both, rtol=1e-6, atol=1e-6)
