"""I2SB and Palette by the Gaussian oracle: with the exact denoiser, how far from the posterior their samples lie."""

import pytest
import torch
from gaussian_posterior import Silence, cases

from diffusion.bridge import BridgeSchedule, follow_bridge
from diffusion.ode_samplers import Heun
from diffusion.sde_samplers import DDIM, DDPM

CASES = cases()


class ExactBridge:
    """E[x0 | x] and E[x0 | x, x1] of Gaussian data on a bridge from x1 = A^+ A x0 + fill (I - P) z."""

    def __init__(self, case, total, fill=0.0):
        self.prior, self.operator, self.total, self.fill = case.prior, case.operator, total, fill
        self.eye = torch.eye(len(case.prior.values), dtype=torch.float64)
        self.known = self.operator.known_part(self.eye.reshape(-1, *self.prior.image_shape)).flatten(1).T

    def start(self, y, noise):
        x1 = self.operator.pseudo_inverse(y)
        if self.fill:
            z = noise()
            x1 = x1 + self.fill * (z - self.operator.known_part(z))
        return x1

    def shares(self, t):
        share = (t[0].item() / self.total) ** 2
        return share, t[0].item() ** 2 * (1 - share)

    def mean(self, x, t, label=None):
        """x = M x0 + noise, so that the mean is a matrix times x."""
        (share, variance), s = self.shares(t), self.prior.covariance
        m = (1 - share) * self.eye + share * self.known
        noise = (share * self.fill) ** 2 * (self.eye - self.known) + variance * self.eye
        gain = s @ m.T @ torch.linalg.pinv(m @ s @ m.T + noise, hermitian=True, rtol=1e-12)
        return (x.flatten(1) @ gain.T).reshape(x.shape)

    def told(self, x1):
        """The same where x1, and so y, is given."""
        y = self.operator.measure(x1)
        means = y.flatten(1) @ self.prior.gain(self.operator).T
        covariance = self.prior.posterior(self.operator, y[:1])[1]

        def mean(x, t, label=None):
            share, variance = self.shares(t)
            gain = (1 - share) * covariance
            spread = (1 - share) ** 2 * covariance + variance * self.eye
            gain = gain @ torch.linalg.pinv(spread, hermitian=True, rtol=1e-12)
            rest = x.flatten(1) - share * x1.flatten(1) - (1 - share) * means
            return (means + rest @ gain.T).reshape(x.shape)

        return mean


def bridge_distances(name, n, *, told, beta_max=1.0, fill=0.0, ode=False, keep=False):
    case, schedule = CASES[name], BridgeSchedule(beta_max=beta_max)
    exact = ExactBridge(case, schedule.sigma_max, fill)

    def restore(y, noise):
        x1 = exact.start(y, noise)
        denoise = exact.told(x1) if told else exact.mean

        def estimate(x, t, label=None):
            x0 = denoise(x, t)
            return case.operator.project(x0, y) if keep else x0

        return follow_bridge(estimate, x1, schedule.levels(n), None if ode else noise)

    draws = (fill > 0) + (0 if ode else n - 1)
    return case.distances(restore, draws)


@pytest.mark.parametrize(
    ("name", "errors"), [("inpainting", (0.158, 0.052, 0.0087)), ("pooling", (0.137, 0.036, 0.0043))]
)
def test_a_bridge_that_is_told_its_end_reaches_the_posterior(name, errors):
    """With 4, 10 and 40 evaluations, as `lightning_modules/i2sb.py` states: the error falls as one over their number
    squared, without a bias, and is the same for every measurement."""
    for n, error in zip((4, 10, 40), errors, strict=True):
        for found in bridge_distances(name, n, told=True):
            assert found == pytest.approx(error, rel=0.02)


FIGURES = [
    ({"fill": 1.0, "ode": True}, "inpainting", (1.06, 1.22, 1.33)),
    ({"fill": 1.0, "ode": True, "keep": True}, "inpainting", (0.217, 0.130, 0.105)),
    ({"fill": 1.0, "keep": True}, "inpainting", (0.117, 0.097, 0.121)),
    ({"fill": 1.0}, "inpainting", (2.94, 4.26, 5.44)),
    ({"beta_max": 0.3}, "pooling", (0.195, 0.094, 0.073)),
]


@pytest.mark.parametrize(("options", "name", "errors"), FIGURES)
def test_a_bridge_that_is_not_told_its_end_is_biased(options, name, errors):
    for n, error in zip((4, 10, 40), errors, strict=True):
        assert bridge_distances(name, n, told=False, **options)[0] == pytest.approx(error, rel=0.02)


def test_the_ode_of_a_bridge_that_is_told_its_end_gives_the_mean():
    """Nothing random is left: W2 is the posterior's own spread, 1 in this measure."""
    for n in (1, 10):
        assert bridge_distances("pooling", n, told=True, fill=0.5, ode=True)[0] == pytest.approx(1, abs=2e-3)


def test_one_evaluation_gives_the_posterior_mean():
    """Of a bridge from a given end; what is told or not makes no difference there."""
    case, schedule = CASES["pooling"], BridgeSchedule()
    exact, y = ExactBridge(case, schedule.sigma_max), case.measurements[:3]
    x1 = exact.start(y, None)
    for denoise in (exact.told(x1), exact.mean):
        found = follow_bridge(denoise, x1, schedule.levels(1), Silence(3, case.prior.image_shape))
        for one, truth in zip(found, y, strict=True):
            mean = case.prior.posterior(case.operator, truth[None])[0]
            assert (one.flatten() - mean).norm() < 2e-3 * mean.norm()


class Conditional:
    """D(x, t, y) = E[x0 | x, y]: Gaussian data after the measurement."""

    def __init__(self, case, y):
        self.means = y.flatten(1) @ case.prior.gain(case.operator).T
        self.values, self.vectors = torch.linalg.eigh(case.prior.posterior(case.operator, y[:1])[1])

    def __call__(self, x, t, label=None):
        values = self.values.clamp(min=0)
        factors = values / (values + torch.as_tensor(t).reshape(-1)[0] ** 2)
        rest = (x.flatten(1) - self.means) @ self.vectors
        return (self.means + (rest * factors) @ self.vectors.T).reshape(x.shape)


@pytest.mark.parametrize(
    ("sampler", "n", "errors"),
    [
        (DDPM(), 9, (0.187, 0.174)),
        (DDPM(), 19, (0.067, 0.061)),
        (DDIM(), 9, (0.095, 0.084)),
        (DDIM(), 19, (0.023, 0.020)),
        (DDIM(), 79, (0.0015, 0.0012)),
        (Heun(), 19, (0.060, 0.043)),
        (Heun(), 79, (0.00024, 0.00009)),
    ],
)
def test_palette_reaches_the_posterior(sampler, n, errors):
    """As `lightning_modules/palette.py` states: without a bias, whatever the measurement."""
    for name, error in zip(("inpainting", "pooling"), errors, strict=True):
        case = CASES[name]

        def restore(y, noise, case=case):
            return sampler.sample(Conditional(case, y), noise, n)

        found = case.distances(restore, n if isinstance(sampler, DDPM) else 1)
        assert found == pytest.approx((error, error), rel=0.03, abs=1e-4)
