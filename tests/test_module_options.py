"""Options that several methods share: a target network, compilation with dropout, budgets, validation."""

from functools import partial

import pytest
import torch
from methods import METHODS, ONE_NETWORK, SHAPE, bcm, cd, ct, edm, gradients, i2sb, images, kd, palette, pd, reflow, rf
from oracles import GaussianDenoise
from torch.utils._python_dispatch import TorchDispatchMode

from diffusion.curricula import ConstantSteps, SquareRootSteps, TargetRate
from diffusion.levels import LogNormal
from diffusion.ode_samplers import Heun
from diffusion.pairs import GridPairs
from diffusion.paths import GridPaths
from diffusion.rng import Draws
from diffusion.stages import halved_intervals
from lightning_modules.diffusion import DiffusionModule
from lightning_modules.pairs_file import Pairs
from lightning_modules.run import SkipNonFinite
from lightning_modules.teacher_pairs import StoredPairs
from networks import MLP


def test_cts_target_network_sees_the_students_dropout_mask():
    module, masks = ct(dropout=0.5, target_rate=TargetRate(SquareRootSteps())).train(), []
    for denoiser in (module.denoiser, module.target):
        denoiser.network.dropout.register_forward_hook(lambda *args: masks.append(args[2] != 0))
    module.loss(images())
    student, target = masks
    assert torch.equal(student, target) and 0.3 < target.double().mean() < 0.7
    assert not any(parameter.requires_grad for parameter in module.target.parameters())


def test_with_dropout_the_network_is_compiled_and_the_loss_is_the_same(monkeypatch):
    compiled, plain = [], MLP.compile
    monkeypatch.setattr(MLP, "compile", lambda self, **kwargs: compiled.append(kwargs) or plain(self, backend="eager"))

    def build(**options):
        torch.manual_seed(0)
        module = bcm(**options)
        return module.train()

    monkeypatch.setattr("methods.network", lambda dropout: lambda shape, n: network(shape, n))

    def network(shape, num_classes):
        return MLP(shape, num_classes, width=16, depth=1, dropout=0.5, bidirectional=True)

    eager, graph = build(), build(compile=True)
    assert compiled == [{"fullgraph": True, "dynamic": False}]
    torch.testing.assert_close(graph.loss(images()), eager.loss(images()))


def guided(**options):
    """A diffusion model that loses labels; the small network of the other tests has no place for a lost one."""
    network = partial(MLP, width=16, depth=1)
    module = DiffusionModule(network, SHAPE, LogNormal(-1.2, 1.2), 1000, label_dropout=0.5, **options)
    for parameter in module.denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # the last layer starts at 0
    return module


COMPILED = {
    "CT": ct,
    "CT with a target network": lambda **options: ct(target_rate=TargetRate(SquareRootSteps()), **options),
    "diffusion": edm,
    "diffusion with lost labels": guided,
    "CD": lambda **options: cd(paths=GridPaths(SquareRootSteps(4, 16), max_jump=3), **options),
    "CD with a target network": lambda **options: cd(target_rate=0.9, **options),
    "PD": pd,
    "KD": kd,
    "rectified flow": rf,
    "reflow": reflow,
    "I2SB": i2sb,
    "Palette": palette,
}
"""BCM's is compiled to machine code in tests/test_module_sampling.py, and CTM has no `compile`."""


@pytest.mark.parametrize("make", COMPILED.values(), ids=COMPILED.keys())
def test_the_compiled_loss_is_one_graph_and_the_same(monkeypatch, make):
    """Backend "eager": what could break the graph or take a second one is in torch's tracing, before any backend."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    graph, eager = (make(num_classes=3, compile=c).train() for c in (True, False))
    eager.load_state_dict(graph.state_dict())
    x0, label = images(), torch.arange(6) % 3
    for seen in (0, 20, 40, 60):
        graph.images_seen = eager.images_seen = seen
        losses = [module.loss(x0, label) for module in (graph, eager)]
        torch.testing.assert_close(*losses)
        torch.testing.assert_close(*map(gradients, losses, (graph.denoiser, eager.denoiser)))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.parametrize("make", COMPILED.values(), ids=COMPILED.keys())
def test_a_compiled_loss_is_told_no_seed(monkeypatch, make):
    """PyTorch up to 2.11 compiles it anew for every number that it is given, until it gives up (seen on an H200)."""
    told = []

    def seen(objective, **_):
        return lambda *args: told.extend(args) or objective(*args)

    monkeypatch.setattr(torch, "compile", seen)
    module, x0 = make(num_classes=3, compile=True), images()
    monkeypatch.setattr("diffusion.rng.Draws.stream_seed", lambda self, name: 12345)
    module.loss(x0, torch.arange(6) % 3)
    seeds = [a if isinstance(a, int) else a.dropout_seed for a in told if isinstance(a, int) or hasattr(a, "_fields")]
    assert seeds == [0]


@pytest.mark.parametrize("make", METHODS)
def test_a_run_of_no_images_is_refused(make):
    with pytest.raises(ValueError, match="total_images=0"):
        make(total_images=0)


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="bidirectional_weight=-1"):
        bcm(bidirectional_weight=-1)


@pytest.mark.parametrize("make", METHODS)
def test_a_validation_batch_meets_the_same_noise_at_any_time(make):
    module, x0 = make().eval(), images()
    first, other = module.loss(x0, position=0), module.loss(x0, position=1)
    module.images_seen = 10 if make is pd else 500  # in the same stage
    again = module.loss(x0, position=0)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_averages_have_the_same_half_life_in_images_at_any_batch_size():
    def averaged(images, steps):
        module = bcm(ema_rates=(0.9,), ema_batch=64)
        with torch.no_grad():
            module.denoiser.network.second.bias.add_(1.0)
        start = module.ema_denoiser.network.second.bias.clone()
        for k in range(1000, 1000 + steps):  # past the warm-up
            module.update_averages(k, images)
        return module.ema_denoiser.network.second.bias - start

    torch.testing.assert_close(averaged(64, 4), averaged(32, 8))
    torch.testing.assert_close(averaged(64, 4), torch.full((4,), 1 - 0.9**4))


class NoHostWait(TorchDispatchMode):
    """Fails where the host asks for a number on the device, or waits until a copy has come there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        assert func is not torch.ops.aten._local_scalar_dense.default, "the host reads a number"
        if func is torch.ops.aten._to_copy.default and not kwargs.get("non_blocking"):
            assert kwargs.get("device") in (None, args[0].device), "the host waits for a copy"
        return func(*args, **kwargs)


@pytest.mark.parametrize("make", ONE_NETWORK)
def test_a_step_never_asks_the_device_for_a_number(make):
    """draw, loss, backward, the guard, a fused optimizer and the averages."""
    module, x0, guard = make().train(), images(), SkipNonFinite()
    optimizer = torch.optim.Adam(module.denoiser.parameters(), fused=True)
    module.loss(x0)  # laws of levels make their grids once
    with NoHostWait():
        module.training_step((x0, None), 0)["loss"].backward()
        guard.on_before_optimizer_step(None, module, optimizer)
        optimizer.step()
        module.update_averages(0, len(x0))
    with pytest.raises(AssertionError, match="reads a number"), NoHostWait():
        x0.sum().item()


def stored_pairs(x):
    pairs = StoredPairs(Pairs(images(), images(), torch.arange(6)))
    return lambda: pairs(Draws(0, 0, x.device), x, None)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: lambda: halved_intervals(x.flatten(1).mean(1), 4, 0.002, 80.0),
        lambda x: lambda: GridPaths(ConstantSteps(8)).path(x.flatten(1).mean(1), 0.5, 0.0, 0.002, 80.0),
        lambda x: lambda: GridPairs(ConstantSteps(8)).pairs(x.flatten(1).mean(1), 0.0, 0.002, 80.0),
        lambda x: lambda: Heun()(GaussianDenoise(0.5), x, Heun().levels(5), lambda: x),
        stored_pairs,
    ],
    ids=["PD's levels", "CD's levels", "CT's levels", "solver", "stored pairs"],
)
def test_a_step_never_waits_for_a_copy_to_the_device(make):
    """The device is "meta", which every machine has; the first step may wait."""
    x = images().to("meta")
    step = make(x)
    step()
    with NoHostWait():
        step()
    with pytest.raises(AssertionError, match="waits for a copy"), NoHostWait():
        images().to("meta")
