"""The game of two networks: whose weights a turn changes, who plays when, and what a checkpoint keeps."""

import copy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from methods import ADVERSARIAL, images, ufogen

from diffusion.adversarial import GradientPenalty, Hinge, NonSaturating, Relativistic
from diffusion.curricula import CosineDecay
from diffusion.ladder import AnyLevelBelow, IndependentLevel
from diffusion.levels import LogNormal
from lightning_modules.players import Game, Player, game_step, holds_gradients, optimizers

SGD = partial(torch.optim.SGD, lr=0.1)


def playing(make, **options):
    """A module whose optimizers are built, as a Trainer would have it; SGD shows gradients as differences."""
    options = {"generator_player": Player(SGD), "discriminator_player": Player(SGD), **options}
    module = make(**options).train()
    built = optimizers(module)
    module.optimizers = lambda: built
    return module


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()]).clone()


def gradient(loss, network):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()), allow_unused=False)])


@pytest.mark.parametrize("make", ADVERSARIAL)
@pytest.mark.parametrize("num_classes", [0, 3])
def test_a_batch_is_a_step_of_each_against_the_newest_other(make, num_classes):
    """A restatement: the discriminator descends its own loss, then the generator descends against the new one."""
    module, x0 = playing(make, num_classes=num_classes), images()
    label = torch.arange(6) % 3 if num_classes else None
    other = copy.deepcopy(module)
    draws = other.draw(x0)
    verdict = other.discriminator_terms(x0, other.generate(x0, label, draws).detach(), label, draws, True)
    step = gradient(sum(verdict.terms.values()).mean(), other.critic)
    expected_critic = weights(other.critic) - 0.1 * step
    game_step(module, x0, label)
    torch.testing.assert_close(weights(module.critic), expected_critic)

    other.critic.load_state_dict(module.critic.state_dict())
    loss = sum(other.generator_terms(x0, other.generate(x0, label, draws), label, draws).values())
    expected = weights(other.denoiser) - 0.1 * gradient(loss.mean(), other.denoiser)
    torch.testing.assert_close(weights(module.denoiser), expected)
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("make", ADVERSARIAL)
def test_what_a_step_returns(make):
    module, x0 = playing(make), images()
    loss = module.loss(x0)
    module.discriminator_player = Player(SGD, every=2)
    module.batches_seen = 1  # the generator alone plays, so against the discriminator that `loss` saw
    output = game_step(module, x0, None)
    torch.testing.assert_close(output["loss"], loss.mean().detach())
    losses = [term for name, term in output["terms"].items() if not name.endswith("_gradient")]
    torch.testing.assert_close(sum(losses), loss.detach())
    assert tuple(output["terms"]) == module.term_names and tuple(output["judged_terms"]) == module.judged_names
    assert all(value.isnan().all() for value in output["judged_terms"].values())
    output = game_step(module, x0, None)
    assert all(value.isfinite().all() and value.shape == (6,) for value in output["judged_terms"].values())
    assert output["judged"].shape == output["sigma"].shape == (6,)
    assert not any(value.requires_grad for value in (*output["terms"].values(), *output["judged_terms"].values()))


def test_the_gradient_at_the_output_is_that_of_each_term():
    module, x0 = playing(ufogen, reconstruction_weight=2.0), images()
    module.batches_seen, module.discriminator_player = 1, Player(SGD, every=2)
    draws = module.draw(x0)
    x0_hat = module.generate(x0, None, draws)
    terms = module.generator_terms(x0, x0_hat, None, draws)
    norms = {
        k: torch.autograd.grad(v.sum(), x0_hat, retain_graph=True)[0].flatten(1).norm(dim=1) for k, v in terms.items()
    }
    output = game_step(module, x0, None)
    for name, norm in norms.items():
        torch.testing.assert_close(output["terms"][f"{name}_gradient"], norm)


def test_cadence_accumulation_and_lazy_penalty():
    """The generator plays every batch and steps every third, the discriminator plays every second."""
    generator, discriminator = Player(SGD, accumulate=3), Player(SGD, every=2)
    module = playing(
        ufogen,
        generator_player=generator,
        discriminator_player=discriminator,
        penalty=GradientPenalty(0.1, interval=2),
    )
    seen = []
    for batch in range(12):
        before = weights(module.denoiser), weights(module.critic)
        output = game_step(module, images(), None)
        moved = [
            not torch.equal(a, b)
            for a, b in zip(before, (weights(module.denoiser), weights(module.critic)), strict=True)
        ]
        seen.append((*moved, bool(output["judged_terms"]["penalty"].isfinite().all())))
        assert holds_gradients(module) == (batch % 3 != 2)
        module.images_seen += 6
    assert [s[0] for s in seen] == [False, False, True] * 4
    assert [s[1] for s in seen] == [True, False] * 6
    assert [s[2] for s in seen] == [True, False, False, False] * 3
    assert module.generator_steps == 4 and module.batches_seen == 12


def test_accumulated_gradients_are_the_mean_of_their_batches():
    """Two halves make the step of the whole, the images seen being held."""
    x0 = images(8)
    whole = playing(ufogen, generator_player=Player(SGD), discriminator_player=Player(SGD, every=100))
    halves = copy.deepcopy(whole)
    halves.optimizers = (lambda built: lambda: built)(optimizers(halves))
    halves.generator_player = Player(SGD, accumulate=2)
    for module in (whole, halves):
        module.batches_seen = 100 * 2 + 2  # the discriminator rests
    draws = whole.draw(x0)
    game_step(whole, x0, None)
    parts = iter([0, 4])

    def half(x, position=None):
        i = next(parts)
        return type(draws)(*(d[i : i + 4] if isinstance(d, torch.Tensor) else d for d in draws))

    halves.draw = half
    for i in (0, 4):
        game_step(halves, x0[i : i + 4], None)
    torch.testing.assert_close(weights(halves.denoiser), weights(whole.denoiser))


def test_each_has_its_own_schedule():
    players = Player(SGD, CosineDecay(final=0.0)), Player(SGD, CosineDecay(final=0.5))
    module = playing(ufogen, generator_player=players[0], discriminator_player=players[1])
    for seen, factors in ((0, (1.0, 1.0)), (500, (0.5, 0.75)), (1000, (0.0, 0.5))):
        module.images_seen = seen
        game_step(module, images(), None)
        rates = [optimizer.param_groups[0]["lr"] for optimizer in module.optimizers()]
        assert rates == pytest.approx([0.1 * factor for factor in factors])


@pytest.mark.parametrize(("place", "limit"), [(0, 1e-3), (1, 2e-3)])
def test_each_has_its_own_limit_of_the_gradient(place, limit):
    key = ("generator_player", "discriminator_player")[place]
    module = playing(ufogen, **{key: Player(SGD, clip_norm=limit)})
    built = module.optimizers()
    trainer = SimpleNamespace(optimizers=built)
    for optimizer in built:
        for p in optimizer.param_groups[0]["params"]:
            p.grad = torch.ones_like(p)
        Game().on_before_optimizer_step(trainer, module, optimizer)
    norms = [torch.cat([p.grad.flatten() for p in o.param_groups[0]["params"]]).norm() for o in built]
    assert norms[place] == pytest.approx(limit, rel=1e-3) and norms[1 - place] > 1


@pytest.mark.parametrize("gan_loss", [NonSaturating(), NonSaturating(0.5), Relativistic(), Hinge()])
@pytest.mark.parametrize("judged", [AnyLevelBelow(), IndependentLevel(LogNormal())])
def test_every_loss_and_level_plays(gan_loss, judged):
    module = playing(ufogen, gan_loss=gan_loss, judged=judged)
    before = weights(module.denoiser)
    output = game_step(module, images(), None)
    assert output["loss"].isfinite() and weights(module.denoiser).isfinite().all()
    assert not torch.equal(before, weights(module.denoiser))


def test_autocast_never_sees_old_weights():
    """Rounded copies of the discriminator's weights must not outlive its step."""
    module, x0 = playing(ufogen, discriminator_player=Player(partial(torch.optim.SGD, lr=10.0))), images()
    other = copy.deepcopy(module)
    other.discriminator_player = Player(SGD, every=2)
    with torch.autocast("cpu", torch.bfloat16):
        game_step(module, x0, None)
    other.critic.load_state_dict(module.critic.state_dict())
    other.batches_seen = 1
    other.optimizers = (lambda built: lambda: built)(optimizers(other))
    with torch.autocast("cpu", torch.bfloat16):
        game_step(other, x0, None)
    torch.testing.assert_close(weights(module.denoiser), weights(other.denoiser))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"every": 0}, "every=0"), ({"accumulate": 0}, "accumulate=0"), ({"clip_norm": 0.0}, "clip_norm=0.0")],
)
def test_players_that_cannot_play_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Player(**options)
