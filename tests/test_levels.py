"""Laws of noise levels against SciPy's distributions and quadrature."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from diffusion.levels import LogNormal, Mixture, UniformRho, draw_index
from diffusion.noise import karras_grid

LOW, HIGH = 0.002, 80.0


class TruncatedLogNormal:
    """ln sigma ~ N(mean, std^2) given sigma in [LOW, HIGH], restated with SciPy."""

    def __init__(self, mean, std):
        self.law = stats.lognorm(s=std, scale=np.exp(mean))
        self.below, self.mass = self.law.cdf(LOW), self.law.cdf(HIGH) - self.law.cdf(LOW)

    def cdf(self, sigma):
        return (self.law.cdf(sigma) - self.below) / self.mass

    def pdf(self, sigma):
        return self.law.pdf(sigma) / self.mass


class PowerOfUniform:
    """sigma^(1/rho) uniform on [LOW^(1/rho), HIGH^(1/rho)]."""

    def __init__(self, rho):
        self.rho = rho
        self.law = stats.uniform(LOW ** (1 / rho), HIGH ** (1 / rho) - LOW ** (1 / rho))

    def cdf(self, sigma):
        return self.law.cdf(sigma ** (1 / self.rho))

    def pdf(self, sigma):
        return self.law.pdf(sigma ** (1 / self.rho)) * sigma ** (1 / self.rho - 1) / self.rho


class MixtureOf:
    def __init__(self, first, second, share):
        self.first, self.second, self.share = first, second, share

    def cdf(self, sigma):
        return (1 - self.share) * self.first.cdf(sigma) + self.share * self.second.cdf(sigma)

    def pdf(self, sigma):
        return (1 - self.share) * self.first.pdf(sigma) + self.share * self.second.pdf(sigma)


LAWS = {
    "iCT": (LogNormal(), TruncatedLogNormal(-1.1, 2.0)),
    "EDM": (LogNormal(-1.2, 1.2), TruncatedLogNormal(-1.2, 1.2)),
    "high": (LogNormal(3.0, 1.0), TruncatedLogNormal(3.0, 1.0)),
    "CT": (UniformRho(), PowerOfUniform(7.0)),
    "linear": (UniformRho(1.0), PowerOfUniform(1.0)),
    "mixture": (
        Mixture(LogNormal(), UniformRho(), 0.3),
        MixtureOf(TruncatedLogNormal(-1.1, 2), PowerOfUniform(7), 0.3),
    ),
}


@pytest.mark.parametrize(("law", "truth"), LAWS.values(), ids=LAWS)
def test_continuous_follows_its_law(law, truth):
    u = torch.rand(4000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigma = law.continuous(u, LOW, HIGH)
    assert sigma.min() >= LOW and sigma.max() <= HIGH
    assert stats.kstest(sigma.numpy(), truth.cdf).pvalue > 0.01


@pytest.mark.parametrize("law", [LogNormal(), LogNormal(3.0, 1.0), UniformRho()])
def test_continuous_inverts_the_distribution_function(law):
    """At evenly spread u, out to the last of the float64 numbers below 1."""
    u = torch.cat([torch.arange(1000, dtype=torch.float64) / 1000, torch.tensor([1 - 2**-53], dtype=torch.float64)])
    sigma = law.continuous(u, LOW, HIGH)
    assert (sigma.diff() >= 0).all() and sigma[0] >= LOW and sigma[-1] <= HIGH
    truth = TruncatedLogNormal(law.mean, law.std) if isinstance(law, LogNormal) else PowerOfUniform(law.rho)
    np.testing.assert_allclose(truth.cdf(sigma.numpy()), u, atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 18])
@pytest.mark.parametrize(("law", "truth"), LAWS.values(), ids=LAWS)
def test_weights_are_integrals_of_the_density(law, truth, n):
    """Over ln sigma, where the densities are smooth."""
    grid = karras_grid(n, LOW, HIGH)
    weights = law.weights(grid)
    ends = grid.log().tolist()
    for i in range(n):
        mass, _ = integrate.quad(lambda y: truth.pdf(np.exp(y)) * np.exp(y), ends[i], ends[i + 1])
        assert weights[i].item() == pytest.approx(mass, rel=1e-6, abs=1e-12)
    assert weights.sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_mixture_at_its_ends_is_one_law(share):
    u = torch.rand(100, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mixture, only = Mixture(LogNormal(), UniformRho(), share), [LogNormal(), UniformRho()][int(share)]
    torch.testing.assert_close(mixture.continuous(u, LOW, HIGH), only.continuous(u, LOW, HIGH))


def test_mixtures_nest():
    law = Mixture(Mixture(UniformRho(), LogNormal(), 0.5), LogNormal(3.0, 1.0), 0.2)
    grid = karras_grid(10, LOW, HIGH)
    parts = [UniformRho().weights(grid), LogNormal().weights(grid), LogNormal(3.0, 1.0).weights(grid)]
    torch.testing.assert_close(law.weights(grid), 0.4 * parts[0] + 0.4 * parts[1] + 0.2 * parts[2])
    assert hash(law) == hash(Mixture(Mixture(UniformRho(), LogNormal(), 0.5), LogNormal(3.0, 1.0), 0.2))


WEIGHTS = torch.tensor([0.0, 3.0, 0.0, 0.0, 1.0, 4.0, 0.0])


def even(n: int) -> torch.Tensor:
    """The midpoints of n equal parts of [0, 1]: drawn from, every probability k/n is hit exactly."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def test_draw_index_hits_the_probabilities_exactly():
    counts = torch.bincount(draw_index(even(800), WEIGHTS), minlength=7)
    assert counts.tolist() == [0, 300, 0, 0, 100, 400, 0]


def test_draw_index_with_a_law_for_every_image():
    laws = torch.stack([WEIGHTS, WEIGHTS.flip(0)]).repeat_interleave(80, dim=0)
    index = draw_index(even(80).repeat(2), laws)
    assert torch.bincount(index[:80], minlength=7).tolist() == [0, 30, 0, 0, 10, 40, 0]
    assert torch.bincount(index[80:], minlength=7).tolist() == [0, 40, 10, 0, 0, 30, 0]


@pytest.mark.parametrize("weights", [WEIGHTS, WEIGHTS / 7, WEIGHTS.flip(0).double() * 0.1])
def test_draw_index_never_draws_weight_zero(weights):
    """Not at the ends of [0, 1), and not at the very numbers where one index ends and the next begins."""
    edges = weights.double().cumsum(0) / weights.double().sum()
    around = torch.cat([edges, edges.nextafter(torch.zeros(1).double()), torch.zeros(1).double()])
    u = around[around < 1]
    assert (weights[draw_index(u, weights)] > 0).all()
    assert (weights[draw_index(u, weights.repeat(len(u), 1))] > 0).all()


def test_draw_index_of_a_batch_of_one():
    assert draw_index(torch.tensor([0.99]), WEIGHTS).tolist() == [5]
    assert draw_index(torch.tensor([0.99]), WEIGHTS[None]).tolist() == [5]


@pytest.mark.parametrize(
    ("call", "value"),
    [
        (lambda: LogNormal(std=0.0), "std=0.0"),
        (lambda: UniformRho(0.0), "rho=0.0"),
        (lambda: Mixture(LogNormal(), UniformRho(), 1.5), "share=1.5"),
        (lambda: LogNormal(50.0, 0.1).continuous(even(4), LOW, HIGH), "mean=50.0"),
        (lambda: LogNormal(50.0, 0.1).weights(karras_grid(4)), "mean=50.0"),
    ],
)
def test_bad_arguments_are_named(call, value):
    with pytest.raises(ValueError, match=value):
        call()
