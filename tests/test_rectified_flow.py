"""Rectified flow: its path, loss and solver in this project's coordinates, against closed forms and official code."""

import json
import math
from pathlib import Path

import pytest
import torch
from oracles import FiniteDenoise, GaussianDenoise, SmallNetwork, column, gaussian_data, orders
from recorded.official import X0, FormulaNetwork, NoiseSequence, agrees, gradients, images, noise, tensor
from torch import nn

from diffusion.denoisers import FlowDenoiser
from diffusion.levels import LogNormal, UniformFlowTime
from diffusion.noise import flow_grid, flow_level, flow_time, perturb
from diffusion.ode_samplers import Euler, Heun
from diffusion.rng import ImageNoise
from diffusion.straight_paths import FlowGrid, straightness, velocity
from diffusion.weightings import FlowWeight
from lightning_modules.rectified_flow import RectifiedFlowModule
from lightning_modules.teacher import Teacher
from lightning_modules.teacher_pairs import CachedPairs, FreshPairs, TeacherODE
from networks import MLP

RECORDED = json.loads((Path(__file__).parent / "recorded" / "rectified_flow.json").read_text())
EPS = RECORDED["eps"]
S = 0.5
SHAPE = (1, 2, 2)
POINTS = torch.tensor([[1.0, 0], [-0.5, 0.8], [-0.5, -0.9], [0.3, 0.2]], dtype=torch.float64).reshape(4, 2, 1, 1)


def flow(network=None, **options):
    return RectifiedFlowModule(lambda shape, n: network or SmallNetwork(shape, n), SHAPE, 1000, **options)


def small_images(n=6):
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Exact(nn.Module):
    """A network that gives the velocity v(x_a, a) of a function."""

    def __init__(self, v):
        super().__init__()
        self.v, self.unused = v, nn.Parameter(torch.zeros(()))

    def forward(self, x, c_noise, label=None, c_target=None):
        return self.v(x, column(flow_time((4 * c_noise).exp()), x)) + 0 * self.unused


# --- the same thing in two coordinates ------------------------------------------------------------------------------


def test_a_straight_path_is_the_projects_path_divided_by_one_plus_sigma():
    x0, z, a = gaussian_data(9, S), gaussian_data(9, 1.0, seed=1), torch.arange(9, dtype=torch.float64) / 9
    sigma = flow_level(a)
    torch.testing.assert_close(flow_time(sigma), a)
    straight = (1 - column(a, x0)) * x0 + column(a, x0) * z
    torch.testing.assert_close(perturb(x0, z, sigma) / (1 + column(sigma, x0)), straight)


def test_the_loss_is_the_velocitys_squared_error():
    """Written here in a, as in the paper; in the module as a weighted error of x0 in sigma."""
    module = flow(SmallNetwork(SHAPE)).double()
    x0, z, a = gaussian_data(9, S), gaussian_data(9, 1.0, seed=1), torch.linspace(0.01, 0.98, 9, dtype=torch.float64)
    x_a, sigma = (1 - column(a, x0)) * x0 + column(a, x0) * z, flow_level(a)
    v = module.denoiser.network(x_a, sigma.log() / 4)
    truth = (z - x0 - v).square().flatten(1).mean(1)
    torch.testing.assert_close(module.loss_of(z, x0, None, sigma, 0), truth)
    torch.testing.assert_close(velocity(module.denoiser, perturb(x0, z, sigma), sigma), v)
    torch.testing.assert_close(FlowWeight()(sigma), a**-2)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_eulers_method_in_a_is_eulers_method_in_sigma(n):
    module = flow(SmallNetwork(SHAPE)).double()
    a_max = 80 / 81
    z = gaussian_data(4, 1.0)
    x = a_max * z
    for i in range(n):
        a = torch.full((4,), (1 - i / n) * a_max, dtype=torch.float64)
        x = x - a_max / n * module.denoiser.network(x, flow_level(a).log() / 4)
    torch.testing.assert_close(module.sample(lambda: z, n), x, rtol=1e-10, atol=1e-12)


def test_the_grid_is_uniform_in_a():
    grid = flow_grid(5, 0.002, 80.0)
    torch.testing.assert_close(flow_time(grid).diff(), torch.full((5,), (80 / 81 - 0.002 / 1.002) / 5).double())
    assert grid[0] == 0.002 and grid[-1] == 80 and flow_grid(3)[0] == 0
    levels = FlowGrid().levels(4, 0.002, 80.0)
    assert levels[0] == 80 and levels == sorted(levels, reverse=True) and len(levels) == 4
    torch.testing.assert_close(flow_time(tensor([*levels, 0.0])).diff(), torch.full((4,), -20 / 81).double())
    for arguments in ((0, 0.0, 80.0), (2, -0.1, 80.0), (2, 80.0, 80.0)):
        with pytest.raises(ValueError, match=r"n=0|sigma_min"):
            flow_grid(*arguments)


def test_the_law_of_levels_is_uniform_in_a():
    law, u = UniformFlowTime(), torch.arange(1000, dtype=torch.float64) / 1000
    sigma = law.continuous(u, 0.002, 80.0)
    low, high = 0.002 / 1.002, 80 / 81
    torch.testing.assert_close(flow_time(sigma), low + u * (high - low))
    assert sigma.min() >= 0.002 and sigma.max() <= 80
    torch.testing.assert_close(law.weights(flow_grid(8, 0.002, 80.0)), torch.full((8,), 1 / 8).double())
    drawn = flow_time(flow(levels=law).draw(torch.zeros(4096, *SHAPE)).t)
    assert drawn.double().mean().item() == pytest.approx((low + high) / 2, abs=0.02)


def test_a_logit_normal_law_of_a_is_a_log_normal_law_of_sigma():
    sigma = LogNormal(0.3, 0.8).continuous(torch.rand(4000, generator=torch.Generator().manual_seed(0)), 1e-9, 1e9)
    logit = torch.logit(flow_time(sigma))
    assert logit.mean().item() == pytest.approx(0.3, abs=0.05) and logit.std().item() == pytest.approx(0.8, abs=0.05)


# --- closed forms ---------------------------------------------------------------------------------------------------


def test_the_velocity_of_gaussian_data_is_the_regression_of_noise_minus_image():
    """E[z - x0 | x_a] = Cov(z - x0, x_a)/Var(x_a) x_a, which no other velocity has less loss than."""
    x, a = gaussian_data(9, 1.0), torch.linspace(0.01, 0.98, 9, dtype=torch.float64)
    b = column(a, x)
    slope = (b - (1 - b) * S**2) / ((1 - b) ** 2 * S**2 + b**2)
    sigma = flow_level(a)
    torch.testing.assert_close(velocity(GaussianDenoise(S), x * (1 + column(sigma, x)), sigma), slope * x)
    exact = FlowDenoiser(Exact(lambda x, a: (a - (1 - a) * S**2) / ((1 - a) ** 2 * S**2 + a**2) * x))
    torch.testing.assert_close(exact(x, sigma), GaussianDenoise(S)(x, sigma))


def test_eulers_method_converges_on_gaussian_data_at_order_1():
    """The flow is x_a = z sqrt((1 - a)^2 s^2 + a^2), and starts at a_max z."""
    z, a_max = gaussian_data(3, 1.0), 80 / 81
    truth = a_max * z * S / math.sqrt((1 - a_max) ** 2 * S**2 + a_max**2)
    errors = []
    for n in (32, 64, 128, 256):
        x = Euler(FlowGrid()).sample(GaussianDenoise(S), lambda: z, n)
        errors.append((x - truth).abs().max())
    assert orders(errors) == pytest.approx([1.0] * 3, abs=0.15)


def test_straightness_of_gaussian_data_in_closed_form():
    """Speed r'(a) z with r(a) = sqrt((1 - a)^2 s^2 + a^2): S = z^2 Var_a r'(a)."""
    z, n = gaussian_data(4, 1.0), 1000
    a = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000 * 80 / 81
    speed = (a - (1 - a) * S**2) / ((1 - a) ** 2 * S**2 + a**2).sqrt()
    truth = z.square().flatten(1).mean(1) * speed.var(correction=0)
    torch.testing.assert_close(straightness(GaussianDenoise(S), lambda: z, n), truth, rtol=1e-2, atol=0)
    assert (truth > 0.05).all()


class CoupledDenoise:
    """The posterior mean of reflow's paths x0 + sigma z with x0 = s z, the flow of Gaussian data: all straight."""

    def __call__(self, x, sigma, label=None):
        return S / (S + column(sigma, x)) * x


@pytest.mark.parametrize("n", [1, 5])
def test_a_straight_flow_has_straightness_0_and_needs_one_step(n):
    """From a_max z, which the paths do not go through (it lacks (1 - a_max) x0): a relative error of 1/160."""
    z = gaussian_data(4, 1.0)
    assert straightness(CoupledDenoise(), lambda: z, 20).max() < 1e-25
    torch.testing.assert_close(Euler(FlowGrid()).sample(CoupledDenoise(), lambda: z, n), S * z, rtol=7e-3, atol=0)


def test_reflow_of_an_exact_flow_keeps_the_images_and_has_the_straight_flow_as_its_minimum():
    """Pairs are z and s z: at the straight flow's velocity the loss is 0, and the images are N(0, s^2) again."""
    network = Exact(lambda x, a: (1 - S) / ((1 - a) * S + a) * x)
    module = flow(network, teacher=GaussianDenoise(S), pairs=FreshPairs(Heun(), 201), sigma_max=1000.0).double()
    draws = module.draw(torch.zeros(2000, *SHAPE, dtype=torch.float64))
    torch.testing.assert_close(draws.pairs.x0, S * draws.pairs.noise, rtol=5e-3, atol=0)
    assert draws.pairs.x0.std().item() == pytest.approx(S, rel=0.03)
    assert module.objective(*draws.pairs, draws.t, 0).max() < 1e-3
    z = gaussian_data(2000, 1.0)
    torch.testing.assert_close(module.sample(lambda: z, 1), S * z, rtol=1e-2, atol=0)


def test_reflow_straightens_a_flow_of_two_dimensional_data():
    """The exact 1-rectified flow of four points, and a small network trained for 250 steps on its pairs."""
    torch.manual_seed(0)
    teacher, pairs = FiniteDenoise(POINTS.float()), CachedPairs(Heun(), 21, count=2048, cache=None)
    module = RectifiedFlowModule(
        lambda shape, n: MLP(shape, n, width=64, depth=2), (2, 1, 1), 1, teacher=teacher, pairs=pairs
    )
    optimizer = torch.optim.Adam(module.denoiser.parameters(), lr=4e-3)
    for k in range(250):
        module.images_seen = 256 * k
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - k / 250)
        optimizer.zero_grad()
        module.loss(torch.zeros(256, 2, 1, 1)).mean().backward()
        optimizer.step()

    z = gaussian_data(500, 1.0, (2, 1, 1)).float()
    truth = Heun().sample(teacher, lambda: z, 41)

    def error_of_one_step(denoise):
        return (Euler(FlowGrid()).sample(denoise, lambda: z, 1) - truth).square().mean().sqrt().item()

    first, second = (straightness(d, lambda: z, 50).mean().item() for d in (teacher, module.denoiser))
    assert first > 0.2 and second < first / 4
    assert error_of_one_step(module.denoiser) < error_of_one_step(teacher) / 2


# --- the official code ----------------------------------------------------------------------------------------------


class OfficialStart(nn.Module):
    """The official network sees z where ours sees a_max z, see `FlowGrid`."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, c_noise, label=None, c_target=None):
        return self.network(x / (1 - EPS), c_noise)


@pytest.mark.parametrize(("section", "z"), [("rectified_flow", noise(0)), ("reflow", noise(1))])
def test_loss_of_the_official_code(section, z):
    """Their time t = u (1 - eps) + eps is 1 - a."""
    network, recorded = FormulaNetwork(), RECORDED[section]
    a = (1 - EPS) * (1 - tensor(RECORDED["u"]))
    loss = flow(network).loss_of(z, X0, None, flow_level(a), 0)
    agrees(loss, tensor(recorded["loss"]))
    agrees(gradients(loss, network), tensor(recorded["gradient"]))


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_sampler_of_the_official_code(n):
    """At a_max = 1 - eps both evaluate at the same a; our state is theirs times a_max. 20 steps are its euler_ode."""
    module = flow(OfficialStart(FormulaNetwork()), sigma_max=(1 - EPS) / EPS)
    first, recorded = (2, RECORDED["euler"]["images"][str(n)]) if n < 20 else (3, RECORDED["pairs"]["images"])
    agrees(module.sample(NoiseSequence(first), n) / (1 - EPS), images(recorded))


# --- the module -----------------------------------------------------------------------------------------------------


def reflow(**options):
    return flow(teacher=GaussianDenoise(S), pairs=FreshPairs(Euler(), 3), **options)


@pytest.mark.parametrize("make", [flow, reflow])
def test_loss_is_a_pure_function_of_seed_and_images_seen(make):
    module, x0 = make(num_classes=3), small_images()
    first = module.loss(x0, torch.arange(6) % 3)
    assert first.shape == (6,) and first.isfinite().all() and (first > 0).all()
    module.images_seen = 6
    other = module.loss(x0, torch.arange(6) % 3)
    module.images_seen = 0
    assert torch.equal(module.loss(x0, torch.arange(6) % 3), first) and not torch.equal(other, first)
    output = module.training_step((x0, torch.arange(6) % 3), 0)
    torch.testing.assert_close(output["loss"], first.mean())
    assert output["sigma"].shape == (6,) and output["terms"].keys() == {"velocity"}


def test_reflow_has_no_use_for_the_images_of_the_data():
    assert torch.equal(reflow().loss(small_images()), reflow().loss(torch.zeros(6, *SHAPE)))
    assert not torch.equal(flow().loss(small_images()), flow().loss(torch.zeros(6, *SHAPE)))


def test_labels_reach_teacher_and_student():
    seen = []

    def teacher(x, sigma, label=None):
        seen.append(label)
        return GaussianDenoise(S)(x, sigma)

    label = torch.arange(6) % 3
    module = flow(teacher=teacher, pairs=FreshPairs(Euler(), 2), num_classes=3)
    first = module.loss(small_images(), label)
    assert len(seen) == 2 and all(torch.equal(given, label) for given in seen)
    changed = first != module.loss(small_images(), (label + (torch.arange(6) == 4)) % 3)
    assert changed.tolist() == [False] * 4 + [True, False]


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_any_number_of_steps_takes_as_many_evaluations(steps):
    module, calls = flow(), []
    module.ema_denoiser.network.register_forward_hook(lambda *args: calls.append(args))
    assert module.sample(ImageNoise(range(3), SHAPE), steps).shape == (3, *SHAPE) and len(calls) == steps
    with pytest.raises(ValueError, match="steps=0"):
        module.sample(ImageNoise(range(3), SHAPE), 0)


def test_another_sampler_can_be_passed():
    module, noise = flow(sampler=Heun()), gaussian_data(3, 1.0).float()
    expected = Heun().sample(module.ema_denoiser, lambda: noise, 5)
    assert torch.equal(module.sample(lambda: noise, 5), expected)
    assert not torch.equal(flow().sample(lambda: noise, 5), expected)


@pytest.mark.parametrize("options", [{"teacher": GaussianDenoise(S)}, {"pairs": FreshPairs(Euler(), 3)}])
def test_reflow_needs_a_teacher_and_its_pairs(options):
    with pytest.raises(ValueError, match="reflow needs both"):
        flow(**options)


def test_two_steps_of_reflow_from_python():
    """A 3-rectified flow: its teacher is a model in memory, the second."""
    second = reflow()
    third = flow(teacher=second.ema_denoiser, pairs=CachedPairs(Euler(FlowGrid()), 4, count=10, cache=None))
    assert third.loss(small_images()).isfinite().all()
    assert not any("teacher" in name or name.startswith("ode") for name in third.state_dict())
    ode = TeacherODE(Teacher(second.ema_denoiser), SHAPE, 0, 0.002, 80.0)
    torch.testing.assert_close(
        FreshPairs(Euler(FlowGrid()), 4).solve(ode, gaussian_data(2, 1.0).float(), None),
        second.sample(lambda: gaussian_data(2, 1.0).float(), 4),
    )
