"""The samplers of a diffusion model: order, identities, evaluations; and with fresh noise, the variance they give."""

import math

import pytest
import torch
from oracles import FiniteDenoise, GaussianDenoise, GaussianFlow, gaussian_data, orders
from test_samplers import Counted, Noise, UnitNoise

from diffusion.grids import GivenLevels, KarrasGrid, LogGrid, VPGrid
from diffusion.ode_samplers import DEIS, DPMSolver2, DPMSolverFast, DPMSolverPP2M, Euler, Heun, Sampler
from diffusion.rng import ImageNoise
from diffusion.sde_samplers import DDIM, DDPM

S, EPS, TOP = 0.5, 0.002, 80.0
SHAPE = (1, 2, 2)
EXACT, FLOW = GaussianDenoise(S), GaussianFlow(S)
DETERMINISTIC = [Euler(), Heun(), DPMSolver2(), DPMSolverFast(), DPMSolverPP2M(), DEIS(), DDIM()]
STOCHASTIC = [DDIM(eta=0.5), DDPM(), Heun(s_churn=40.0)]
ALL = DETERMINISTIC + STOCHASTIC


def never():
    raise AssertionError("no noise is added")


@pytest.mark.parametrize(
    ("sampler", "order"),
    [
        (Euler(), 1),
        (DDIM(eta=0.0), 1),
        (Heun(), 2),
        (Heun(VPGrid()), 2),
        (DPMSolver2(), 2),
        (DPMSolver2(LogGrid()), 2),
        (DPMSolverPP2M(), 2),
        (DPMSolverPP2M(LogGrid()), 2),
        (DEIS(degree=1), 2),
        (DEIS(degree=2), 3),
        (DEIS(degree=3, variable=VPGrid()), 4),
        (DEIS(degree=3, variable=KarrasGrid(rho=1)), 4),
    ],
    ids=repr,
)
def test_order_of_convergence(sampler, order):
    """On Gaussian data to D(x_eps, eps), the last step being Euler's to 0; three doublings of the evaluations."""
    x = TOP * gaussian_data(2, 1.0)
    truth = EXACT(FLOW(x, TOP), EPS)
    runs = [sampler.levels(sampler.at_most(steps), EPS, TOP) for steps in (96, 192, 384, 768)]
    errors = [(sampler(EXACT, x, sigmas, never) - truth).abs().max() for sigmas in runs]
    assert orders(errors) == pytest.approx([order] * 3, abs=0.18)


def test_order_of_dpm_solver_fast():
    """To the last level, chosen above where the third order's leading error changes sign. At last it is of order 2."""
    x, errors = TOP * gaussian_data(2, 1.0), []
    for steps in (47, 95, 191, 383):
        sigmas = DPMSolverFast().levels(steps, 0.35, TOP)
        errors.append((DPMSolverFast()(EXACT, x, sigmas, never, steps=steps) - FLOW(x, TOP, target=0.35)).abs().max())
    assert orders(errors) == pytest.approx([3] * 3, abs=0.15)


@pytest.mark.parametrize("sampler", [Heun(), DPMSolver2(), DPMSolverPP2M(), DEIS(), DDPM()], ids=repr)
def test_samplers_end_on_the_data(sampler):
    """The ideal denoiser of a finite set leads to its points, without noise each from where it is nearest."""
    points = torch.tensor([[1.0, 0], [-0.5, 0.8], [-0.5, -0.9]], dtype=torch.float64).reshape(3, 2, 1, 1)
    x = TOP * torch.cat([points, gaussian_data(20, 1.0, (2, 1, 1))])
    result = sampler(FiniteDenoise(points), x, sampler.levels(81), Noise(len(x), (2, 1, 1)))
    distance = (result[:, None] - points).flatten(2).norm(dim=2)
    assert distance.min(dim=1).values.max() < 1e-6
    if sampler in DETERMINISTIC:
        assert distance[:3].argmin(dim=1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("sampler", ALL, ids=repr)
def test_steps_are_network_evaluations(sampler):
    """Exactly as many as asked for, or none at all and a line that says which numbers there are."""
    for steps in range(1, 14):
        denoise = Counted(EXACT)
        if isinstance(sampler, Heun | DPMSolver2) and steps % 2 == 0:
            with pytest.raises(ValueError, match=f"steps={steps}: {type(sampler).__name__} takes 1, 3, 5, ..."):
                sampler.sample(denoise, Noise(), steps)
            assert not denoise.sigmas and sampler.at_most(steps) == steps - 1
            continue
        result = sampler.sample(denoise, Noise(), steps, sigma_min=EPS, sigma_max=TOP)
        assert result.isfinite().all() and result.shape == (3, *SHAPE)
        assert len(denoise.sigmas) == steps == sampler.at_most(steps)
        assert len(sampler.levels(steps)) == sampler.num_levels(steps)


def test_one_evaluation_is_the_posterior_mean_of_the_noise():
    for sampler in ALL:
        noise = Noise()
        result = sampler.sample(EXACT, noise, 1)
        x = TOP * noise.drawn[0]
        if isinstance(sampler, DPMSolverFast):  # to the level 0.002
            expected = x + (EPS - TOP) * (x - EXACT(x, TOP)) / TOP
        elif isinstance(sampler, Heun) and sampler.s_churn:
            up = TOP * math.sqrt(2)  # as much as churn may add
            expected = EXACT(x + TOP * noise.drawn[1], up)
        else:
            expected = EXACT(x, TOP)
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("sampler", ALL, ids=repr)
def test_labels_reach_every_evaluation_and_a_batch_of_one(sampler):
    denoise, label = Counted(EXACT), torch.tensor([4, 5, 6])
    together = sampler.sample(denoise, ImageNoise([0, 1, 2], SHAPE), 9, label)
    assert len(denoise.labels) == 9 and all(given is label for given in denoise.labels)
    alone = sampler.sample(EXACT, ImageNoise([1], SHAPE), 9, label[1:2])
    torch.testing.assert_close(alone, together[1:2])


@pytest.mark.parametrize("sampler", ALL, ids=repr)
def test_the_state_is_float64_and_the_network_in_its_own_precision(sampler):
    seen = []

    def denoise(x, sigma, label=None):
        seen.append(x.dtype)
        return EXACT(x, sigma)

    class Rough(Noise):
        def __call__(self):
            return super().__call__().float()

    sigmas = sampler.levels(151)
    rough = sampler(denoise, TOP * gaussian_data(3, 1.0).float(), sigmas, Rough())
    assert set(seen) == {torch.float32} and rough.dtype == torch.float32
    again = Rough()
    exact = sampler(EXACT, (TOP * gaussian_data(3, 1.0).float()).double(), sigmas, lambda: again().double())
    torch.testing.assert_close(rough.double(), exact, rtol=2e-5, atol=1e-6)


def test_identities():
    x, sigmas = TOP * gaussian_data(3, 1.0), KarrasGrid().levels(12, EPS, TOP)
    euler = Euler()(EXACT, x, sigmas, never)
    same = [DDIM(eta=0.0), DEIS(degree=0), DEIS(degree=0, variable=KarrasGrid(rho=1))]
    for sampler in same:
        torch.testing.assert_close(sampler(EXACT, x, sigmas, never), euler, rtol=1e-12, atol=0)
    assert torch.equal(DDPM()(EXACT, x, sigmas, Noise()), DDIM(eta=1.0)(EXACT, x, sigmas, Noise()))
    heun = Heun()(EXACT, x, sigmas, never)
    assert torch.equal(Heun(s_churn=40.0, s_min=100.0)(EXACT, x, sigmas, never), heun)
    assert not torch.allclose(Heun(s_churn=40.0)(EXACT, x, sigmas, Noise()), heun)


@pytest.mark.parametrize(
    ("make", "still"), [(lambda e: DDIM(eta=e), Euler()), (lambda e: Heun(s_churn=e**2), Heun())], ids=["eta", "churn"]
)
def test_noise_goes_to_zero_with_its_amount(make, still):
    """The change is of first order in the standard deviation of the noise."""
    x, sigmas = TOP * gaussian_data(3, 1.0), KarrasGrid().levels(12, EPS, TOP)
    amounts = (0.04, 0.02, 0.01)
    changes = [(make(e)(EXACT, x, sigmas, Noise()) - still(EXACT, x, sigmas, never)).norm() for e in amounts]
    assert orders(changes) == pytest.approx([1, 1], abs=0.1) and changes[0] < 0.2


def variance(sampler, steps):
    """Of what a sampler makes of Gaussian data, exactly: it is linear, so each draw's coefficient is measured."""
    noise = UnitNoise(sampler.num_levels(steps) + 1)
    return sampler.sample(EXACT, noise, steps, sigma_min=EPS, sigma_max=TOP).square().sum().item()


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_variance_of_ddim_by_recursion(eta):
    """v_s = (c + (1 - c) sqrt(s^2 - a^2)/t)^2 v_t + a^2 with D = c x, from v = 80^2; the last step leaves c^2 v."""
    sigmas = KarrasGrid().levels(9, EPS, TOP)
    v = TOP**2
    for t, s in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        a, c = eta * s * math.sqrt(1 - s**2 / t**2), S**2 / (S**2 + t**2)
        v = (c + (1 - c) * math.sqrt(s**2 - a**2) / t) ** 2 * v + a**2
    assert variance(DDIM(eta=eta), 9) == pytest.approx(v, rel=1e-10)


@pytest.mark.parametrize(
    ("sampler", "order"), [(DDIM(eta=0.5), 1), (DDPM(), 1), (Heun(s_churn=20.0, s_min=0.05, s_max=50.0), 2)], ids=repr
)
def test_variance_goes_to_the_datas(sampler, order):
    """At the order of the solver, with churn too; the start, at 80, lacks 4e-5 of its variance."""
    errors = [abs(variance(sampler, steps) - S**2) for steps in (129, 257, 513, 1025)]
    assert errors[-1] < 0.02 * S**2
    assert orders(errors) == pytest.approx([order] * 3, abs=0.1)


def test_churn():
    """Evaluations are at t' = t (1 + g), from which Heun's step goes to the next t; noise takes x from t to t'."""
    denoise, gain = Counted(EXACT), math.sqrt(2) - 1
    Heun(s_churn=0.3)(denoise, TOP * gaussian_data(3, 1.0), [10.0, 3.0, 1.0], Noise())
    assert denoise.sigmas == pytest.approx([11.0, 3.0, 3.3, 1.0, 1.1])
    # of a single level with nothing at it, the noise alone is left, at most what takes t to sqrt(2) t
    only = Heun(s_churn=9.0, s_noise=0.5)(EXACT, torch.zeros(1, 1, 1, 8).double(), [10.0], UnitNoise())
    expected = 0.5 * 10 * math.sqrt((1 + gain) ** 2 - 1) * S**2 / (S**2 + 200)
    assert only.norm().item() == pytest.approx(expected, rel=1e-12)


def test_given_levels_are_visited():
    sampler, denoise = Euler(GivenLevels([[70.0, 5.0, 0.3], [60.0]])), Counted(EXACT)
    noise = Noise()
    sampler.sample(denoise, noise, 3)
    assert denoise.sigmas == [70.0, 5.0, 0.3]
    assert sampler.at_most(35) == 3 and sampler.at_most(2) == 1
    with pytest.raises(ValueError, match="2 noise levels"):
        sampler.sample(denoise, noise, 2)
    with pytest.raises(ValueError, match="Euler on its grid needs more evaluations"):
        Euler(GivenLevels([[3.0, 2.0]])).at_most(1)
    assert Heun(GivenLevels([[70.0, 5.0, 0.3]])).at_most(35) == 5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: Heun()(EXACT, x, (1.0, 0.0), never), "> 0"),
        (lambda x: Euler()(EXACT, x, (0.1, 1.0), never), "descending"),
        (lambda x: DPMSolverPP2M()(EXACT, x, (1.0, 1.0), never), "without repetition"),
        (lambda x: DEIS()(EXACT, x, (), never), r"sigmas=\[\]"),
        (lambda x: Euler().sample(EXACT, never, 0), "steps=0"),
        (lambda x: DDIM(eta=1.5), "eta=1.5"),
        (lambda x: DDIM(eta=-0.1), "eta=-0.1"),
        (lambda x: DEIS(degree=-1), "degree=-1"),
        (lambda x: Heun(s_churn=-1.0), "s_churn=-1.0"),
        (lambda x: Heun(s_noise=0.0), "s_noise=0.0"),
        (lambda x: DPMSolverFast()(EXACT, x, (1.0,), never), "steps=None, 1 noise levels"),
        (lambda x: DPMSolverFast()(EXACT, x, (3.0, 1.0), never, steps=3), "steps=3, 2 noise levels"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(gaussian_data(2, 1.0))


def test_samplers_are_values():
    """Equal by their arguments, as caches need, and no two classes alike."""
    assert Heun(s_churn=3.0) == Heun(s_churn=3.0) != Heun() and len(set(ALL)) == len(ALL)
    with pytest.raises(TypeError, match="abstract"):
        Sampler()
