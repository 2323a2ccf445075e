"""The methods with a small random network: which weights get gradients, what is random, and what is refused."""

import copy
import shutil
from types import SimpleNamespace

import pytest
import torch
from oracles import GaussianDenoise, SmallNetwork

from diffusion.curricula import ConstantSteps, CosineDecay, DoublingSteps, SquareRootSteps, TargetRate
from diffusion.distances import PseudoHuber, SquaredL2
from diffusion.ema import EMA
from diffusion.levels import LogNormal
from diffusion.noise import perturb
from diffusion.ode_samplers import Euler, Heun
from diffusion.pairs import GridPairs
from diffusion.paths import GridPaths
from diffusion.rng import ImageNoise
from diffusion.weightings import InverseGap, TruncatedSNR
from lightning_modules.bcm import BCMDraws, BCMModule, BCMPlan
from lightning_modules.cd import CDModule
from lightning_modules.ct import CTModule
from lightning_modules.ctm import CTMModule
from lightning_modules.diffusion import DiffusionModule
from lightning_modules.kd import KDModule
from lightning_modules.pd import PDModule
from lightning_modules.rectified_flow import RectifiedFlowModule
from lightning_modules.teacher_pairs import FreshPairs

SHAPE = (1, 2, 2)


def network(dropout):
    return lambda image_shape, num_classes: SmallNetwork(image_shape, num_classes, dropout)


def bcm(dropout=None, **options):
    options = {"pairs": GridPairs(ConstantSteps(18)), "distance": PseudoHuber(), "total_images": 1000, **options}
    return BCMModule(network(dropout), SHAPE, weight=InverseGap(), target_weight=InverseGap(), **options)


def ct(dropout=None, **options):
    options = {"pairs": GridPairs(ConstantSteps(18)), "distance": PseudoHuber(), "total_images": 1000, **options}
    return CTModule(network(dropout), SHAPE, weight=InverseGap(), **options)


def edm(dropout=None, **options):
    return DiffusionModule(network(dropout), SHAPE, LogNormal(-1.2, 1.2), **{"total_images": 1000, **options})


def of(method, *args, dropout=None, **options):
    """A method that distils the exact denoiser of Gaussian data."""
    options = {"total_images": 1000, "teacher": GaussianDenoise(0.5), **options}
    return method(network(dropout), SHAPE, *args, **options)


def cd(dropout=None, **options):
    options = {"paths": GridPaths(ConstantSteps(18)), "distance": PseudoHuber(), "weight": InverseGap(), **options}
    return of(CDModule, dropout=dropout, **options)


def ctm(dropout=None, **options):
    options = {"paths": GridPaths(ConstantSteps(18), max_jump=3), "levels": LogNormal(-1.2, 1.2), **options}
    return of(
        CTMModule, dropout=dropout, **{"distance": PseudoHuber(), "target_rate": 0.0, "adaptive": False, **options}
    )


def pd(dropout=None, **options):
    return of(PDModule, dropout=dropout, distance=SquaredL2(), weight=TruncatedSNR(), **options)


def kd(dropout=None, **options):
    return of(KDModule, dropout=dropout, pairs=FreshPairs(Heun(), 5), **options)


def rf(dropout=None, **options):
    return of(RectifiedFlowModule, dropout=dropout, **{"teacher": None, **options})


def reflow(dropout=None, **options):
    return of(RectifiedFlowModule, dropout=dropout, pairs=FreshPairs(Euler(), 3), **options)


METHODS = [bcm, ct, edm, cd, ctm, pd, kd, rf, reflow]


def images(n=6):
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def gradients(loss, model):
    return torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss.sum(), list(model.parameters()), retain_graph=True)]
    )


# --- the loss as a function -------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", METHODS)
@pytest.mark.parametrize("num_classes", [0, 3])
@pytest.mark.parametrize("n", [1, 6])
def test_loss_is_one_number_an_image_without_a_trainer(make, num_classes, n):
    module, label = make(num_classes=num_classes), torch.arange(n) % 3
    loss = module.loss(images(n), label)
    assert loss.shape == (n,) and loss.isfinite().all() and (loss > 0).all() and loss.requires_grad
    gradients(loss, module.denoiser)  # every weight has one, the classes' among them


@pytest.mark.parametrize("make", METHODS)
def test_loss_is_a_pure_function_of_seed_and_images_seen(make):
    module, x0 = make(), images()
    first = module.loss(x0)
    torch.rand(3)
    assert torch.equal(module.loss(x0), first) and torch.equal(make().loss(x0), first)
    assert not torch.equal(make(seed=1).loss(x0), first)
    module.images_seen = 6
    assert not torch.equal(module.loss(x0), first)


@pytest.mark.parametrize("make", METHODS)
def test_labels(make):
    """An unconditional model never sees them; in a conditional one each image's loss depends on its own."""
    x0, label = images(), torch.tensor([0, 1, 2, 0, 1, 2])
    assert torch.equal(make().loss(x0, label), make().loss(x0))
    conditional, other = make(num_classes=3), label.clone()
    other[4] = 0
    changed = conditional.loss(x0, label) != conditional.loss(x0, other)
    assert changed.tolist() == [False] * 4 + [True, False]


@pytest.mark.parametrize("make", METHODS)
def test_two_processes_draw_what_one_draws(make):
    """Each computes its slice of the global batch's loss."""
    x0, label, parts = images(), torch.arange(6) % 3, []
    for rank in range(2):
        module = make(num_classes=3)
        module._trainer = SimpleNamespace(global_rank=rank, world_size=2)
        parts.append(module.loss(x0.chunk(2)[rank], label.chunk(2)[rank]))
    torch.testing.assert_close(torch.cat(parts), make(num_classes=3).loss(x0, label), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", METHODS)
def test_training_step_returns_the_mean_the_levels_and_the_terms(make):
    module, x0 = make(), images()
    output, loss = module.training_step((x0, None), 0), module.loss(x0)
    torch.testing.assert_close(output["loss"], loss.mean())
    torch.testing.assert_close(torch.stack(list(output["terms"].values())).sum(0), loss.detach())
    assert output["sigma"].shape == (6,) and (output["sigma"] >= module.denoiser.sigma_min).all()
    assert output["loss"].requires_grad and not any(term.requires_grad for term in output["terms"].values())


@pytest.mark.parametrize("make", [bcm, ct])
def test_the_curriculum_follows_the_images_seen(make):
    """N(k) counts images, whatever the size of a step: 4 intervals at the start, 16 at the end."""
    module, x0 = make(pairs=GridPairs(DoublingSteps(4, 16))), images(512)
    for seen, n in ((0, 4), (400, 8), (1000, 16)):
        module.images_seen = seen
        assert len(module.draw(x0).s.unique()) == n


# --- gradients --------------------------------------------------------------------------------------------------


def test_bcm_gradients_reach_a_and_c_alone():
    """A restatement whose frozen passes use a second copy of the weights: the gradients are those of the first, and
    those that B and D would add are not zero."""
    module, x0 = bcm().double(), images().double()
    noise, t, s, u, _ = draws = module.draw(x0)
    here, other = module.denoiser, copy.deepcopy(module.denoiser)
    a, c = here(perturb(x0, noise, t), t), here(perturb(x0, noise, t), t, target=u)
    b, d = other(perturb(x0, noise, s), s), other(c, u)
    distance = PseudoHuber()
    restated = distance(a, b) / (t - s), distance(d, b) / (t - u).abs()
    for ours, theirs in zip(module.loss_terms(x0, None, draws), restated, strict=True):
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(gradients(ours, here), gradients(theirs, here))
        assert gradients(theirs, other).abs().max() > 1e-3 * gradients(theirs, here).abs().max()


def test_ct_gradients_reach_the_student_alone():
    module, x0 = ct().double(), images().double()
    noise, t, s, _ = draws = module.draw(x0)
    here, other = module.denoiser, copy.deepcopy(module.denoiser)
    restated = PseudoHuber()(here(perturb(x0, noise, t), t), other(perturb(x0, noise, s), s)) / (t - s)
    ours = module.loss_at(x0, None, draws)
    torch.testing.assert_close(ours, restated)
    torch.testing.assert_close(gradients(ours, here), gradients(restated, here))
    assert gradients(restated, other).abs().max() > 0


def test_one_pass_for_a_and_c_equals_two():
    """A network with dropout of a probability that never strikes takes the separate passes."""
    together, apart = bcm(num_classes=3).double(), bcm(dropout=1e-14, num_classes=3).double()
    assert together.fused and not apart.fused
    x0, label = images().double(), torch.arange(6) % 3
    draws = together.draw(x0)
    one, two = together.loss_terms(x0, label, draws), apart.loss_terms(x0, label, draws)
    torch.testing.assert_close(one, two)
    torch.testing.assert_close(gradients(sum(one), together.denoiser), gradients(sum(two), apart.denoiser))


def test_images_of_a_batch_do_not_mix():
    """Each image's terms are those it has alone: noise, levels and labels keep their places in the fused pass."""
    module, x0, label = bcm(num_classes=3).double(), images().double(), torch.arange(6) % 3
    draws = module.draw(x0)
    together = torch.stack(module.loss_terms(x0, label, draws))
    for i in range(len(x0)):
        own = BCMDraws(*(part[i : i + 1] for part in draws[:4]), draws.dropout_seed)
        alone = torch.stack(module.loss_terms(x0[i : i + 1], label[i : i + 1], own))
        torch.testing.assert_close(alone[:, 0], together[:, i])


def test_bidirectional_weight():
    x0 = images()
    one, none, three = (bcm(bidirectional_weight=w).loss(x0) for w in (1.0, 0.0, 3.0))
    torch.testing.assert_close(three - none, 3 * (one - none))


@pytest.mark.parametrize("make", METHODS)
def test_gradients_survive_autocast(make):
    """autocast keeps the rounded weights of a first pass for the next: were that one made without gradients, so would
    all be. The gradient points where that of float32 does."""
    module, x0 = make(), images(64)
    exact = gradients(module.loss(x0), module.denoiser)
    with torch.autocast("cpu", torch.bfloat16):
        loss = module.loss(x0)
    assert loss.dtype == torch.float32
    assert torch.cosine_similarity(gradients(loss, module.denoiser), exact, dim=0) > 0.98


# --- dropout ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "passes"), [(bcm, 4), (ct, 2), (cd, 2), (ctm, 5)])
def test_all_passes_see_the_same_dropout_mask(make, passes):
    module, x0, masks = make(dropout=0.5), images(), []
    module.denoiser.network.dropout.register_forward_hook(lambda *args: masks.append(args[2] != 0))
    for seen in (0, 6):
        module.images_seen = seen
        module.loss(x0)
    assert len(masks) == 2 * passes
    assert all(torch.equal(mask, masks[0]) for mask in masks[:passes])
    assert not torch.equal(masks[passes], masks[0])  # another step, another mask
    assert 0.3 < masks[0].double().mean() < 0.7


@pytest.mark.parametrize("make", METHODS)
def test_dropout_is_random_in_training_alone(make):
    module, plain, x0 = make(dropout=0.5), make(), images()
    assert not torch.equal(module.loss(x0), plain.loss(x0))
    torch.testing.assert_close(module.eval().loss(x0), plain.eval().loss(x0))


# --- averages and optimizer -------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", METHODS)
def test_averages_are_what_is_evaluated(make):
    module = make(ema_rates=(0.5, 0.9)).train()
    assert module.ema_denoiser is module.ema.models[0] and not module.ema_denoiser.training
    reference = EMA(module.denoiser, (0.5, 0.9))
    noise = [ImageNoise([0, 1], SHAPE) for _ in range(3)]
    before = module.sample(noise[0], 1)
    with torch.no_grad():
        for parameter in module.denoiser.parameters():
            parameter.add_(0.3)
    assert torch.equal(module.sample(noise[1], 1), before)  # the weights in training are not
    for k in range(2):
        module.update_averages(k)
        reference.update(module.denoiser, k)
    torch.testing.assert_close(module.ema.state_dict(), reference.state_dict())
    assert not torch.equal(module.sample(noise[2], 1), before)


def test_cts_target_follows_at_its_own_rate():
    """mu(k) as a function of the images seen, without warm-up; and it is the target that the loss looks at."""
    rate = TargetRate(SquareRootSteps(2, 150), 0.9)
    module, x0 = ct(target_rate=rate, distance=SquaredL2()), images()
    start = module.denoiser.network.second.bias.detach().clone()
    with torch.no_grad():
        module.denoiser.network.second.bias.add_(1.0)
    loss = module.loss(x0)
    expected = 0.0
    for seen in (0, 500):
        module.images_seen = seen
        module.update_averages(100)
        expected = expected * rate(seen / 1000) + 1 - rate(seen / 1000)
        moved = module.target.network.second.bias - start
        torch.testing.assert_close(moved, torch.full_like(moved, expected))
    module.images_seen = 0
    assert module.loss(x0).mean() < loss.mean()  # the target came nearer to the student


@pytest.mark.parametrize("make", METHODS)
def test_only_the_denoiser_is_optimized(make):
    module = make()
    optimizer = module.configure_optimizers()
    optimized = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert optimized == {id(p) for p in module.denoiser.parameters()}


@pytest.mark.parametrize("make", [make for make in METHODS if make is not pd])  # where it follows the stage
def test_learning_rate_follows_the_images_seen(make):
    module = make(lr_factor=CosineDecay(warmup=0.1, final=0.2))
    built = module.configure_optimizers()
    group, schedule = built["optimizer"].param_groups[0], built["lr_scheduler"]
    full = group["initial_lr"]
    for seen, factor in ((0, 0.0), (50, 0.5), (100, 1.0), (1000, 0.2)):
        module.images_seen = seen
        built["optimizer"].step()
        schedule["scheduler"].step()
        assert group["lr"] == pytest.approx(factor * full)
    assert schedule["interval"] == "step"


# --- sampling ---------------------------------------------------------------------------------------------------


def sample_with_steps(module):
    steps = {
        BCMModule: (1, 2, 3, 4),
        CTModule: (1, 2),
        DiffusionModule: (1, 3, 7),
        CDModule: (1, 2),
        CTMModule: (1, 2, 4),
        PDModule: (1, 2, 16),
        KDModule: (1,),
        RectifiedFlowModule: (1, 2, 5),
    }
    return steps[type(module)]


@pytest.mark.parametrize("make", METHODS)
def test_samples_take_the_evaluations_asked_for_and_ignore_the_batch(make):
    module, calls = make(num_classes=3), []
    module.ema_denoiser.network.register_forward_hook(lambda *_: calls.append(1))
    label = torch.tensor([0, 1, 2])
    for steps in sample_with_steps(module):
        calls.clear()
        together = module.sample(ImageNoise([5, 6, 7], SHAPE), steps, label)
        assert len(calls) == steps and together.shape == (3, *SHAPE) and together.dtype == torch.float32
        alone = module.sample(ImageNoise([6], SHAPE), steps, label[1:2])
        torch.testing.assert_close(alone, together[1:2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "value"),
    [
        (lambda noise: bcm().sample(noise, 5), r"steps=5: .*\[1, 2, 3, 4\]"),
        (lambda noise: bcm(plans=(BCMPlan((80.0, 1.0)),)).sample(noise, 1), r"steps=1: .*\[2\]"),
        (lambda noise: bcm().invert(images(2), noise, 3), r"steps=3: .*\[1, 2\]"),
        (lambda noise: ct().sample(noise, 3), r"steps=3: .*\[1, 2\]"),
        (lambda noise: edm().sample(noise, 2), "steps=2"),
        (lambda noise: cd().sample(noise, 3), r"steps=3: .*\[1, 2\]"),
        (lambda noise: ctm().sample(noise, 3), r"steps=3: .*\[1, 2, 4\]"),
        (lambda noise: pd().sample(noise, 3), r"steps=3: .*\[16, 8, 4, 2, 1\]"),
        (lambda noise: kd().sample(noise, 2), "steps=2"),
        (lambda noise: rf().sample(noise, 0), "steps=0"),
        (lambda noise: edm().sample(noise, -1), "steps=-1"),
    ],
)
def test_numbers_of_steps_that_are_not_set_are_refused(call, value):
    with pytest.raises(ValueError, match=value):
        call(ImageNoise([0, 1], SHAPE))


def test_a_plan_counts_its_evaluations():
    assert BCMPlan((80.0, 3.0), ((0.12, 0.4), (0.1, 0.2))).steps == 6


def test_inversion_ends_at_the_level_where_generation_starts():
    """The plans' first level and the last one of every inversion are sigma_max, unless a config sets others."""
    module, calls = bcm(), []
    assert {plan.levels[0] for plan in module.plans} == {module.denoiser.sigma_max}
    assert {levels[-1] for levels in module.inversions} == {module.denoiser.sigma_max}
    module.ema_denoiser.network.register_forward_hook(lambda *_: calls.append(1))
    for steps in (1, 2):
        calls.clear()
        assert module.invert(images(3), ImageNoise([0, 1, 2], SHAPE), steps).shape == (3, *SHAPE)
        assert len(calls) == steps


# --- compilation ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
def test_bcms_whole_loss_compiles_as_one_graph():
    """Once for all steps, whatever the seeds and N(k), and equal to eager: torch gives up after 8 graphs."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    module = bcm(num_classes=3, compile=True, pairs=GridPairs(DoublingSteps())).double()
    x0, label = images().double(), torch.arange(6) % 3
    for seen in range(0, 1000, 100):
        module.images_seen = seen
        loss = module.loss(x0, label)
        eager = sum(module.loss_terms(x0, label, module.draw(x0)))
        torch.testing.assert_close(loss, eager)
        torch.testing.assert_close(gradients(loss, module.denoiser), gradients(eager, module.denoiser))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]
