"""The methods with a small random network: which weights get gradients, what is random, and what is averaged."""

import copy
from types import SimpleNamespace

import pytest
import torch
from methods import METHODS, ONE_NETWORK, SHAPE, bcm, cd, ct, ctm, gradients, images, made, pd, siddm

from diffusion.curricula import CosineDecay, DoublingSteps, SquareRootSteps, TargetRate
from diffusion.distances import PseudoHuber, SquaredL2
from diffusion.ema import EMA
from diffusion.noise import perturb
from diffusion.pairs import GridPairs
from diffusion.rng import ImageNoise
from lightning_modules.bcm import BCMDraws

# --- the loss as a function -------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", METHODS)
@pytest.mark.parametrize("num_classes", [0, 3])
@pytest.mark.parametrize("n", [1, 6])
def test_loss_is_one_number_an_image_without_a_trainer(make, num_classes, n):
    module, label = make(num_classes=num_classes), torch.arange(n) % 3
    loss = module.loss(images(n), label)
    assert loss.shape == (n,) and loss.isfinite().all() and loss.requires_grad
    assert (loss > 0).all() or make is siddm  # whose entropy is subtracted
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


@pytest.mark.parametrize("make", ONE_NETWORK)
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


def test_both_passes_of_the_round_trip_learn():
    """A restatement in float64: the gradient goes through the way back into the way there, by the same weights."""
    module, x0 = bcm(round_trip_weight=0.5, sigma_data=0.3).double(), images().double()
    noise, t, _, u, _ = draws = module.draw(x0)
    x_t, scale = perturb(x0, noise, t), (0.3 / (0.3**2 + t.double() ** 2).sqrt()).reshape(-1, 1, 1, 1)
    returned = module.denoiser(module.denoiser(x_t, t, target=u), u, target=t)
    restated, ours = 0.5 * PseudoHuber()(scale * returned, scale * x_t), module.loss_terms(x0, None, draws)[2]
    torch.testing.assert_close(ours, restated)
    torch.testing.assert_close(gradients(ours, module.denoiser), gradients(restated, module.denoiser))
    assert bcm(round_trip_weight=0.5).loss(images()).shape == (6,)
    with pytest.raises(ValueError, match="both must be >= 0"):
        bcm(round_trip_weight=-1.0)


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
    before = made(module, noise[0], 1)
    with torch.no_grad():
        for parameter in module.denoiser.parameters():
            parameter.add_(0.3)
    assert torch.equal(made(module, noise[1], 1), before)  # the weights in training are not
    for k in range(2):
        module.update_averages(k)
        reference.update(module.denoiser, k)
    torch.testing.assert_close(module.ema.state_dict(), reference.state_dict())
    assert not torch.equal(made(module, noise[2], 1), before)


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


@pytest.mark.parametrize("make", ONE_NETWORK)
def test_only_the_denoiser_is_optimized(make):
    module = make()
    optimizer = module.configure_optimizers()
    optimized = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert optimized == {id(p) for p in module.denoiser.parameters()}


@pytest.mark.parametrize("make", [make for make in ONE_NETWORK if make is not pd])  # where it follows the stage
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
