"""What a diffusion-GAN minimises: losses, critic and penalties, and the conditionals behind its weights."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn import functional as F

from diffusion.adversarial import (
    ApproximatePenalty,
    Critic,
    DecodingCritic,
    GradientPenalty,
    Hinge,
    NonSaturating,
    Relativistic,
    per_image,
    squared_gradient,
)
from diffusion.denoisers import EDMDenoiser
from diffusion.noise import forward_step, perturb, posterior_sample, posterior_std
from diffusion.weightings import ClampedSNR, ForwardKL

LOSSES = [NonSaturating(), Relativistic(), Hinge()]
T = torch.tensor([0.05, 0.9, 3.0, 150.0], dtype=torch.float64)
S = torch.tensor([0.002, 0.3, 2.9, 17.0], dtype=torch.float64)


def images(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def alpha_bar(sigma):
    return 1 / (1 + sigma**2)


def vp(x, sigma):
    return Critic(nn.Identity(), sigma_data=1.0).rescaled(x, sigma)


# The conditionals


def test_the_forward_kl():
    """Of the variance-preserving q(x_t | x_s) at two points x_s of the same noise, by torch's own formula."""
    x0, x0_hat, noise = images(0, 4, 2, 3, 3), images(1, 4, 2, 3, 3), images(2, 4, 2, 3, 3)
    beta = (T**2 - S**2) / (1 + T**2)

    def step(x_s):
        mean = (1 - beta).sqrt().reshape(-1, 1, 1, 1) * vp(x_s, S)
        return Independent(Normal(mean, beta.sqrt().reshape(-1, 1, 1, 1).expand_as(mean)), 3)

    kl = kl_divergence(step(perturb(x0_hat, noise, S)), step(perturb(x0, noise, S)))
    square = (x0_hat - x0).square().flatten(1).sum(1)
    torch.testing.assert_close(ForwardKL()(T, S) * square, kl, rtol=1e-9, atol=0)
    torch.testing.assert_close((1 - beta) * alpha_bar(S) / (2 * beta) * square, kl, rtol=1e-9, atol=0)
    torch.testing.assert_close(alpha_bar(T) / (2 * beta) * square, kl, rtol=1e-9, atol=0)


def test_the_clamped_snr_looks_at_the_upper_level():
    torch.testing.assert_close(ClampedSNR()(T, S), torch.tensor([5.0, 1 / 0.81, 1 / 9, 1 / 22500]).double())
    torch.testing.assert_close(ClampedSNR(math.inf)(T, S), alpha_bar(T) / (1 - alpha_bar(T)))
    assert torch.equal(ClampedSNR()(T, S), ClampedSNR()(T, S / 2))


def test_a_forward_step_is_the_rest_of_the_noise():
    """Steps of s -> t from x_s = x0 + s z: variances add up to t^2; variance-preserving it is sqrt(1 - beta), beta."""
    x_s, noise = images(0, 4, 2, 3, 3), images(1, 4, 2, 3, 3)
    x_t = forward_step(x_s, noise, S, T)
    torch.testing.assert_close(S**2 + (forward_step(0 * x_s, torch.ones_like(noise), S, T)[:, 0, 0, 0]) ** 2, T**2)
    beta = ((T**2 - S**2) / (1 + T**2)).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(vp(x_t, T), (1 - beta).sqrt() * vp(x_s, S) + beta.sqrt() * noise)


@pytest.mark.parametrize(("s", "t"), list(zip(S.tolist(), T.tolist(), strict=True)))
def test_the_posterior_is_bayes_rule(s, t):
    """q(x_s | x_t, x0) ~ q(x_t | x_s) q(x_s | x0), by quadrature on a line."""
    x0, x_t = 0.4, 0.4 + 1.3 * t
    width = float(posterior_std(torch.tensor(t), torch.tensor(s)))
    centre = x0 + (s / t) ** 2 * (x_t - x0)
    x_s = torch.linspace(centre - 12 * width, centre + 12 * width, 4001, dtype=torch.float64)
    log = -((x_s - x0) ** 2) / (2 * s**2) - (x_t - x_s) ** 2 / (2 * (t**2 - s**2))
    weight = torch.softmax(log, 0)
    mean = (weight * x_s).sum()
    variance = (weight * (x_s - mean) ** 2).sum()

    def sample(noise):
        return posterior_sample(*torch.tensor([[x0], [x_t], [noise], [t], [s]], dtype=torch.float64))[0]

    torch.testing.assert_close(sample(0.0), mean, rtol=1e-9, atol=0)
    torch.testing.assert_close((sample(1.0) - sample(0.0)) ** 2, variance, rtol=1e-6, atol=0)


def test_the_posterior_at_level_0_is_x0():
    x0, x_t, noise = (images(j, 4, 2, 3, 3) for j in range(3))
    assert torch.equal(posterior_sample(x0, x_t, noise, T, torch.zeros_like(T)), x0)


def test_the_posterior_keeps_the_marginal():
    """Of x_t = x0 + t z and then x_s from the posterior: x0 + s z', variance s^2."""
    one, zero = torch.ones(4, 1, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64)
    of_noise = posterior_sample(zero, T[:, None] * one, zero, T, S)
    of_own_noise = posterior_sample(zero, zero, one, T, S)
    torch.testing.assert_close((of_noise**2 + of_own_noise**2)[:, 0], S**2)


# Losses


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


def slope(values, x):
    return torch.autograd.grad(values.sum(), x)[0]


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


# Critic


class Recorder(nn.Module):
    """Keeps what it is told; its logits are bfloat16."""

    def forward(self, *told):
        self.told = told
        return told[0].flatten(1).sum(1).bfloat16()


@pytest.mark.parametrize("sigma_data", [1.0, 0.5, 2.0])
def test_the_discriminator_sees_the_variance_preserving_point(sigma_data):
    """Of the data divided by sigma_data, at the level sigma/sigma_data."""
    x0, noise = images(0, 4, 2, 3, 3), images(1, 4, 2, 3, 3)
    seen = Critic(nn.Identity(), sigma_data).rescaled(perturb(x0, noise, T), T)
    alpha = alpha_bar(T / sigma_data).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(seen, alpha.sqrt() * x0 / sigma_data + (1 - alpha).sqrt() * noise)


def test_slopes_in_the_variance_preserving_point_are_larger():
    """By 1 + sigma^2, squared: D judges x/sqrt(1 + sigma^2)."""
    critic, x = Critic(nn.Identity(), sigma_data=1.0), images(0, 4, 1, 3, 3)

    def judge(seen):
        return seen.tanh().flatten(1).sum(1)

    ours = squared_gradient(judge, critic.rescaled(x, T))
    torch.testing.assert_close(ours, (1 + T**2) * squared_gradient(lambda x: judge(critic.rescaled(x, T)), x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_what_a_critic_is_told(dtype):
    seen, label, sigma = images(0, 4, 2, 3, 3).to(dtype), torch.arange(4), T
    critic = Critic(Recorder())
    logits = critic(seen, sigma, label, source=2 * T)
    at_least = torch.promote_types(dtype, torch.float32)
    assert logits.dtype == at_least and len(critic.network.told) == 3
    torch.testing.assert_close(critic.network.told[1], (sigma.log() / 4).to(at_least))
    assert critic.network.told[0] is seen and critic.network.told[2] is label and not critic.told_source
    critic.network.source_level = True
    critic(seen, sigma, label, source=2 * T)
    torch.testing.assert_close(critic.network.told[3], ((2 * T).log() / 4).to(at_least))
    assert critic(seen, sigma).shape == (4,) and len(critic.network.told) == 3


class Decoder(nn.Module):
    """Decodes what it sees and the noise given to it."""

    decoded_channels = 4

    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    def decode(self, x, c_noise, label):
        return x.flatten(1).sum(1), torch.cat([x, self.noise], 1)


def test_a_decoder_denoises_and_goes_on_to_the_upper_level():
    x_s, noise = images(0, 4, 2, 3, 3), images(1, 4, 2, 3, 3)
    critic = DecodingCritic(Decoder(noise), channels=2, sigma_data=0.7)
    logits, denoised, regressed = critic.decode(x_s, S, T)
    torch.testing.assert_close(logits, critic.rescaled(x_s, S).flatten(1).sum(1))
    torch.testing.assert_close(denoised, EDMDenoiser(Identity(), sigma_data=0.7)(x_s, S))
    assert torch.equal(regressed, forward_step(x_s, noise, S, T))
    assert torch.equal(DecodingCritic(Decoder(0 * noise), 2).decode(x_s, S, T)[2], x_s)


class Identity(nn.Module):
    def forward(self, x, c_noise, label=None):
        return x


# Penalties


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


class Source(nn.Module):
    decoded_channels = 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NonSaturating(limit=0), "limit=0"),
        (lambda: NonSaturating(limit=-0.5), "limit=-0.5"),
        (lambda: GradientPenalty(gamma=-1), "gamma=-1"),
        (lambda: GradientPenalty(interval=0), "interval=0"),
        (lambda: ApproximatePenalty(weight=-1), "weight=-1"),
        (lambda: ApproximatePenalty(sigma=0), "sigma=0"),
        (lambda: ApproximatePenalty(interval=0), "interval=0"),
        (lambda: Critic(nn.Identity(), sigma_data=0), "sigma_data=0"),
        (lambda: DecodingCritic(nn.Identity(), 1), "Identity with decoded_channels=0"),
        (lambda: DecodingCritic(Source(), 2), "a decoder of 4 channels"),
        (lambda: ClampedSNR(limit=0), "limit=0"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
