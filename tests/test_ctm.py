"""CTM with exact models and with a small random network: what must hold of G, its losses, their gradients, sampling."""

import copy
from itertools import pairwise

import pytest
import torch
from oracles import GaussianDenoise, GaussianFlow, SmallNetwork, column, gaussian_data, orders
from torch import nn

from diffusion.curricula import ConstantSteps
from diffusion.denoisers import EDMDenoiser, TrajectoryDenoiser
from diffusion.distances import L1, PseudoHuber
from diffusion.levels import LogNormal, Mixture, UniformRho
from diffusion.noise import karras_grid, perturb
from diffusion.paths import GridPaths
from diffusion.rng import ImageNoise
from diffusion.samplers import gamma_sampling
from diffusion.solvers import euler_step, heun_step
from lightning_modules import balance
from lightning_modules.balance import gradient_ratio, last_weight
from lightning_modules.cd import CDDraws, CDModule
from lightning_modules.ctm import CTMDraws, CTMModule
from networks import MLP, UNet

S, EPS, TOP, SHAPE = 0.5, 0.002, 80.0, (1, 2, 2)
TEACHER, FLOW = GaussianDenoise(S), GaussianFlow(S)
DSM_LEVELS = Mixture(LogNormal(-1.2, 1.2), UniformRho(top=0.7))


class ExactTrajectoryNetwork(nn.Module):
    """The network with which TrajectoryDenoiser is GaussianFlow for data N(0, s^2 I).

    With r = sqrt((s^2 + u^2)/(s^2 + t^2)), g = (r - u/t)/(1 - u/t) x = s^2 (t + u)/(t (s^2 + t^2)(r + u/t)) x.
    """

    def __init__(self, s: float):
        super().__init__()
        self.s = s
        self.unused = nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))

    def forward(self, x, c_noise, label=None, c_target=None):
        t, u, s2 = column((4 * c_noise).exp(), x), column((4 * c_target).exp(), x), self.s**2
        variance = s2 + t**2
        r = ((s2 + u**2) / variance).sqrt()
        g = s2 * (t + u) / (t * variance * (r + u / t))
        return (g - s2 / variance) * variance / (self.s * t) * x + 0 * self.unused


def ctm(dropout=None, network=None, **options):
    options = {"teacher": TEACHER, "paths": GridPaths(ConstantSteps(17), 17), "distance": PseudoHuber(), **options}
    options = {"levels": DSM_LEVELS, "total_images": 1000, **options}
    return CTMModule(network or (lambda shape, classes: SmallNetwork(shape, classes, dropout)), SHAPE, **options)


def exact(**options):
    return ctm(network=lambda shape, classes: ExactTrajectoryNetwork(S), sigma_data=S, **options).double()


def images(n=6):
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def along(path, s, n=6):
    """Draws with the same levels for all of n images."""
    noise, dsm_noise = gaussian_data(n, 1.0, seed=1), gaussian_data(n, 1.0, seed=2)
    levels = torch.as_tensor(path, dtype=torch.float64)[:, None].repeat(1, n)
    return CTMDraws(
        noise, levels, torch.full((n,), s, dtype=torch.float64), dsm_noise, torch.full((n,), 0.7).double(), 0
    )


def gradients(loss, model):
    found = torch.autograd.grad(loss.sum(), list(model.parameters()), retain_graph=True, allow_unused=True)
    return torch.cat([torch.zeros(1) if g is None else g.flatten() for g in found])


# --- G and g ----------------------------------------------------------------------------------------------------


def test_a_jump_to_the_same_level_is_the_identity():
    denoiser, x = TrajectoryDenoiser(SmallNetwork()).double(), 3 * gaussian_data(5, 1.0)
    t = torch.tensor([EPS, 0.07, 1.0, 15.0, TOP], dtype=torch.float64)
    assert torch.equal(denoiser(x, t, target=t), x)


@pytest.mark.parametrize("t", [0.01, 1.0, TOP])
def test_with_exact_weights_it_is_the_flow_and_inside_it_the_posterior_mean(t):
    denoiser, x = TrajectoryDenoiser(ExactTrajectoryNetwork(S), S), t * gaussian_data(5, 1.0)
    for u in (EPS, t / 3, t):
        torch.testing.assert_close(denoiser(x, t, target=u), FLOW(x, t, target=u), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(denoiser(x, t), FLOW(x, t), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(denoiser.posterior_mean(x, t), TEACHER(x, t), rtol=1e-11, atol=1e-12)


def test_started_from_a_teacher_every_jump_is_one_euler_step():
    """A network with one level knows no target: g is the teacher's denoiser, G its Euler (DDIM) step."""
    one, two = MLP(SHAPE, width=8, depth=1), MLP(SHAPE, width=8, depth=1, bidirectional=True)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.normal_(0, 0.3)
    two.load_unidirectional(one.state_dict())
    teacher, student = EDMDenoiser(one), TrajectoryDenoiser(two)
    x, t, u = images(), torch.tensor([80.0, 9.0, 3.0, 1.0, 0.3, 0.1]), torch.tensor([3.0, 0.1, 2.9, 0.002, 0.2, 0.05])
    torch.testing.assert_close(student.posterior_mean(x, t), teacher(x, t))
    torch.testing.assert_close(student(x, t, target=u), euler_step(teacher, x, t, u), rtol=1e-4, atol=1e-5)


# --- the soft consistency loss ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("solver", "order"), [(heun_step, 2), (euler_step, 1)])
def test_with_exact_models_the_consistency_loss_is_the_solvers_error(solver, order):
    module, errors = exact(distance=L1(), solver=solver), []
    x0 = gaussian_data(6, S)
    for k in (8, 16, 32, 64):
        consistency, _ = module.loss_terms(x0, None, along(karras_grid(k, 1.0, 20.0).flip(0), 0.4))
        errors.append(consistency.mean().item())
    assert errors[-1] < 0.02
    assert all(found == pytest.approx(order, abs=0.25) for found in orders(errors)[1:])


def test_without_a_teacher_the_exact_flow_has_no_consistency_loss():
    module, x0 = exact(teacher=None, distance=L1(), adaptive=False), gaussian_data(6, S)
    consistency, denoising = module.loss_terms(x0, None, along([20.0, 5.0, 1.0], 0.4))
    assert consistency.max() < 1e-12 and denoising.min() > 0


def test_one_step_and_s_at_sigma_min_is_consistency_distillation():
    """The outer jump is then the identity: CD's loss and gradient with G(., ., sigma_min) as its consistency model."""
    for rate in (0.0, 0.9):
        module = ctm(target_rate=rate).double()
        other = CDModule(lambda *_: SmallNetwork(), SHAPE, TEACHER, module.paths, PseudoHuber(), lambda t, s: 1.0, 1000)
        # CTM's inner jump of the target has the current weights for any rate
        other.denoiser = copy.deepcopy(module.denoiser)
        if rate:
            for parameter in module.target.parameters():
                parameter.data += 0.3
        x0, draws = images().double(), along([5.0, 1.0], EPS)
        consistency, _ = module.loss_terms(x0, None, draws)
        expected = other.loss_at(x0, None, CDDraws(draws.noise, draws.path, 0))
        torch.testing.assert_close(consistency, expected)
        torch.testing.assert_close(gradients(consistency, module.denoiser), gradients(expected, other.denoiser))


@pytest.mark.parametrize("rate", [0.0, 0.9])
def test_gradients_reach_the_inner_jump_and_the_denoising_term_alone(rate):
    """A restatement with a copy of the weights in each place: the others' gradients would not be zero."""
    module, x0 = ctm(target_rate=rate, adaptive=False, dsm_weight=0.3).double(), images().double()
    if rate:
        for parameter in module.target.parameters():
            parameter.data += 0.1
    draws = module.draw(x0)
    noise, path, s, dsm_noise, tau, _ = draws
    here, inner, outer = (copy.deepcopy(module.denoiser) for _ in range(3))
    outer = copy.deepcopy(module.target).requires_grad_(True) if rate else outer
    x_u = x_t = perturb(x0, noise, path[0])
    for a, b in pairwise(path):
        x_u = heun_step(TEACHER, x_u, a, b)
    eps = torch.full_like(s, EPS)
    estimate = outer(here(x_t, path[0], target=s), s, target=eps)
    target = outer(inner(x_u, path[-1], target=s), s, target=eps)
    x_tau, sigma = perturb(x0, dsm_noise, tau), tau.double().reshape(-1, 1, 1, 1)
    variance, level = S**2 + sigma**2, tau.double().log() / 4
    x0_hat = S**2 / variance * x_tau + S * sigma / variance.sqrt() * here.network(
        x_tau / variance.sqrt(), level, None, level
    )
    weight = variance / (S * sigma) ** 2
    restated = PseudoHuber()(estimate, target), 0.3 * (weight * (x0_hat - x0) ** 2).flatten(1).mean(1)
    for ours, theirs in zip(module.loss_terms(x0, None, draws), restated, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradients(ours, module.denoiser), gradients(theirs, here), rtol=1e-4, atol=1e-5)
    largest = gradients(restated[0], here).abs().max()
    assert gradients(restated[0], inner).abs().max() > 1e-3 * largest
    assert gradients(restated[0], outer).abs().max() > 1e-3 * largest
    module.loss(x0).sum().backward()
    assert module.target is None or all(parameter.grad is None for parameter in module.target.parameters())


# --- the adaptive factor ----------------------------------------------------------------------------------------


def test_adaptive_factor_makes_the_gradients_at_the_last_layer_equal():
    module, x0 = ctm(dsm_weight=2.0).double(), images().double()
    consistency, denoising = module.loss_terms(x0, None, module.draw(x0))
    weight = module.denoiser.network.second.weight
    assert last_weight(module.denoiser.network) is weight
    one, other = (
        torch.autograd.grad(term.mean(), weight, retain_graph=True)[0].norm() for term in (consistency, denoising)
    )
    assert other.item() == pytest.approx(2 * one.item(), rel=1e-4)


def test_ratio_against_a_direct_computation():
    weight = torch.tensor([[3.0, 4.0]], requires_grad=True)
    first, second = (weight * torch.tensor([[6.0, 8.0]])).sum(), (weight * torch.tensor([[0.3, 0.4]])).sum()
    assert gradient_ratio(first, second, weight).item() == pytest.approx(10 / (0.5 + 1e-4))
    assert gradient_ratio(first, second, weight, limit=7.0).item() == 7.0
    assert not gradient_ratio(first, second, weight).requires_grad
    assert gradient_ratio(first, 0 * second, weight).item() == pytest.approx(1e4)


@pytest.mark.parametrize(
    ("network", "layer"),
    [
        (MLP(SHAPE, 3, width=8, depth=1, bidirectional=True), "layer_out"),
        (UNet((1, 8, 8), 3, channels=8, channel_mult=[1, 2], num_blocks=1, bidirectional=True), "conv_out"),
    ],
)
def test_the_last_weight_is_the_output_layers(network, layer):
    assert last_weight(network) is getattr(network, layer).weight


def test_a_network_without_a_weight_is_refused():
    with pytest.raises(ValueError, match="GroupNorm"):
        last_weight(nn.GroupNorm(1, 4))


def test_two_processes_have_the_factor_of_one(monkeypatch):
    """The gradients are averaged before their norms: the mean of the norms would be larger."""
    module, x0 = ctm().double(), images().double()
    draws, weight = module.draw(x0), last_weight(module.denoiser.network)

    def terms(rows):
        part = CTMDraws(draws[0][rows], draws[1][:, rows], *(d[rows] for d in draws[2:5]), 0)
        consistency = module.loss_terms(x0[rows], None, part)[0]
        return consistency.mean(), module.denoising(x0[rows], part, None).mean()

    whole = gradient_ratio(*terms(slice(0, 6)), weight)
    halves = [terms(rows) for rows in (slice(0, 3), slice(3, 6))]
    local = [torch.stack([torch.autograd.grad(t, weight, retain_graph=True)[0] for t in half]) for half in halves]
    monkeypatch.setattr(balance.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(balance.dist, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(balance.dist, "all_reduce", lambda gradient, rank=rank: gradient.add_(local[1 - rank]))
        torch.testing.assert_close(gradient_ratio(*halves[rank], weight), whole)


def test_gradients_survive_autocast_with_a_target_network_and_the_adaptive_factor():
    """The shipped setting. The factor goes backward through the graph a first time, under autocast; the gradient still
    points where that of float32 does, and the two terms' gradients at the last layer are still as large."""
    module, x0 = ctm(target_rate=0.999, adaptive=True), images(64)
    exact = gradients(module.loss(x0), module.denoiser)
    with torch.autocast("cpu", torch.bfloat16):
        consistency, denoising = module.loss_terms(x0, None, module.draw(x0))
    assert consistency.dtype == denoising.dtype == torch.float32
    rounded = gradients(consistency + denoising, module.denoiser)
    assert torch.cosine_similarity(rounded, exact, dim=0) > 0.98
    assert rounded.norm() == pytest.approx(exact.norm().item(), rel=0.1)
    weight = last_weight(module.denoiser.network)
    sizes = [torch.autograd.grad(term.mean(), weight, retain_graph=True)[0].norm() for term in (consistency, denoising)]
    assert sizes[0] == pytest.approx(sizes[1].item(), rel=0.1) and sizes[0] > 0


def test_without_gradients_there_is_no_factor():
    module, x0 = ctm(), images()
    draws = module.draw(x0)
    with torch.no_grad():
        loss = module.loss(x0)
    with torch.inference_mode():
        assert torch.equal(module.loss(x0), loss)
    plain = ctm(adaptive=False).loss_terms(x0, None, draws)
    torch.testing.assert_close(loss, sum(plain).detach())
    assert not torch.allclose(module.loss(x0), loss)


# --- what is random, labels, dropout, averages ------------------------------------------------------------------


def test_a_step_is_a_pure_function_of_seed_and_position():
    module, x0 = ctm(), images()
    first = module.draw(x0)
    torch.rand(3)
    for ours, again in zip(first, ctm().draw(x0), strict=True):
        assert ours == again if isinstance(ours, int) else torch.equal(ours, again)
    module.images_seen = 6
    assert not torch.equal(module.draw(x0).noise, first.noise) and not torch.equal(first.noise, first.dsm_noise)
    lengths = [len(module.draw(x0, position).path) - 1 for position in range(100)]
    assert min(lengths) < 6 and max(lengths) == 17  # one k for a batch, large ones more often
    draws = module.draw(images(400))
    assert (draws.s <= draws.path[-1]).all() and draws.s.min() == torch.tensor(EPS)
    assert (draws.path.diff(dim=0) < 0).all() and EPS <= draws.tau.min() <= draws.tau.max() <= TOP


def test_training_step_and_loss_without_a_trainer():
    module, x0, label = ctm(num_classes=3), images(), torch.tensor([0, 1, 2, 0, 1, 2])
    output, loss = module.training_step((x0, label), 0), module.loss(x0, label)
    assert loss.shape == (6,) and set(output["terms"]) == {"consistency", "denoising"}
    torch.testing.assert_close(output["loss"], loss.mean())
    torch.testing.assert_close(sum(output["terms"].values()), loss.detach())
    assert torch.equal(output["sigma"], module.draw(x0).path[0])
    assert torch.equal(ctm().loss(x0, label), ctm().loss(x0))  # an unconditional model sees no label
    assert not torch.equal(module.loss(x0, label.roll(1)), loss)


def test_without_the_denoising_term():
    consistency, denoising = ctm(dsm_weight=0.0).loss_terms(images(), None, ctm().draw(images()))
    torch.testing.assert_close(consistency, ctm().loss_terms(images(), None, ctm().draw(images()))[0])
    assert not denoising.any()


@pytest.mark.parametrize(("options", "passes"), [({}, 5), ({"target_rate": 0.0}, 5), ({"teacher": None}, 6)])
def test_all_passes_see_the_same_dropout_mask(options, passes):
    module, masks = ctm(dropout=0.5, **options), []
    for denoiser in filter(None, (module.denoiser, module.target)):
        denoiser.network.dropout.register_forward_hook(lambda *args: masks.append(args[2] != 0))
    module.loss(images())
    assert len(masks) == passes and all(torch.equal(mask, masks[0]) for mask in masks)
    module.images_seen = 6
    module.loss(images())
    assert not torch.equal(masks[passes], masks[0])


def test_target_follows_at_its_own_rate_and_the_student_alone_is_optimized():
    module = ctm(target_rate=0.9)
    start = module.target.network.second.bias.clone()
    with torch.no_grad():
        module.denoiser.network.second.bias.add_(1.0)
    for k in range(2):
        module.update_averages(k)
    torch.testing.assert_close(module.target.network.second.bias, start + 1 - 0.81)
    optimized = {id(p) for group in module.configure_optimizers().param_groups for p in group["params"]}
    assert optimized == {id(p) for p in module.denoiser.parameters()}


@pytest.mark.parametrize(
    ("build", "value"),
    [
        (lambda: ctm(target_rate=1.0), "target_rate=1.0"),
        (lambda: ctm(dsm_weight=-1.0), "dsm_weight=-1.0"),
        (lambda: ctm(gamma=1.5), "gamma=1.5"),
        (lambda: ctm(total_images=0), "total_images=0"),
        (lambda: UniformRho(top=0.0), "top=0.0"),
        (lambda: gamma_sampling(FLOW, images(), [TOP, 1.0], images, 2.0), "gamma=2.0"),
        (lambda: gamma_sampling(FLOW, images(), [1.0, TOP], images), "descending"),
        (lambda: gamma_sampling(FLOW, images(), [TOP, EPS], images), "above sigma_min=0.002"),
        (lambda: ctm().sample(ImageNoise([0], SHAPE), 3), r"steps=3: .*\[1, 2, 4\]"),
    ],
)
def test_refusals(build, value):
    with pytest.raises(ValueError, match=value):
        build()


def test_top_of_the_range():
    """The law covers 0.7 of the range of sigma^(1/7); on a grid it has the overlaps of the intervals."""
    law, grid = UniformRho(top=0.7), karras_grid(10)
    u = torch.tensor([0.0, 1 - 1e-12], dtype=torch.float64)
    torch.testing.assert_close(law.continuous(u, EPS, TOP), grid[[3, 10]])
    torch.testing.assert_close(law.weights(grid), torch.tensor([0.0] * 3 + [1 / 7] * 7, dtype=torch.float64))
