"""Averaged weights against their closed form."""

import copy

import pytest
import torch
from oracles import SmallNetwork
from torch import nn

from diffusion.ema import EMA


def constant(value: float) -> nn.Module:
    """A model with all weights equal, in float64."""
    model = SmallNetwork().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


def values(model: nn.Module) -> list[float]:
    return torch.cat([p.flatten() for p in model.parameters()]).unique().tolist()


@pytest.mark.parametrize("rate", [0.5, 0.99])
def test_constant_updates_decay_geometrically(rate):
    """From 0 towards 1: after k updates 1 - rate^k."""
    ema = EMA(constant(0.0), (rate,), warmup=False)
    for k in range(20):
        ema.update(constant(1.0), k)
        assert values(ema.models[0]) == pytest.approx([1 - rate ** (k + 1)], rel=1e-12)


def test_warm_up_forgets_the_start():
    """rate_k = (1 + k)/(10 + k) until it reaches the rate: from 0 towards 1 the rest is their product."""
    ema, rest = EMA(constant(0.0), (0.6,)), 1.0
    for k in range(30):
        ema.update(constant(1.0), k)
        rest *= min(0.6, (1 + k) / (10 + k))
        assert values(ema.models[0]) == pytest.approx([1 - rest], rel=1e-12)
    assert ema.rate(0.6, 0) == 0.1 and ema.rate(0.6, 12) < 0.6 and ema.rate(0.6, 13) == 0.6


def test_updates_weigh_the_last_weights_most():
    """theta_ema <- rate theta_ema + (1 - rate) theta, in this order and not the other."""
    ema = EMA(constant(0.0), (0.9,), warmup=False)
    for k, value in enumerate([1.0, 10.0]):
        ema.update(constant(value), k)
    assert values(ema.models[0]) == pytest.approx([0.9 * 0.1 * 1 + 0.1 * 10])


def test_several_rates_side_by_side():
    rates = (0.9, 0.5, 0.0)
    ema, model = EMA(constant(0.0), rates, warmup=False), SmallNetwork(seed=3).double()
    for k in range(3):
        ema.update(constant(2.0), k)
    for rate, average in zip(rates, ema.models, strict=True):
        assert values(average) == pytest.approx([2 * (1 - rate**3)])
    ema.update(model, 3)
    for mine, theirs in zip(ema.models[2].parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, theirs)  # rate 0 is a copy, bit for bit


def test_copies_are_frozen_and_stay_in_evaluation_mode():
    """Also inside a module that is set to train, and with dropout; the model itself is left alone."""
    model = SmallNetwork(dropout=0.5)
    parent = nn.ModuleDict({"model": model, "ema": EMA(model, (0.9, 0.99))}).train()
    assert not any(m.training for m in parent["ema"].modules()) and model.training
    assert not any(p.requires_grad for p in parent["ema"].parameters())
    assert all(p.requires_grad for p in model.parameters())
    before = copy.deepcopy(model.state_dict())
    parent["ema"].update(constant(5.0).float(), 0)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_copies_start_at_the_model_and_reset_to_another():
    """As copies: what happens to the model later does not reach them."""
    model, other = constant(1.0), constant(2.0)
    ema = EMA(model, (0.9, 0.99))
    assert values(ema) == [1]
    ema.reset(other)
    with torch.no_grad():
        other.first.weight.fill_(3.0)
    assert values(ema) == [2] and values(model) == [1]


def test_buffers_are_copied_not_averaged():
    """Integer counters among them, which cannot be averaged."""
    model = nn.BatchNorm1d(3)
    ema = EMA(model, (0.9,), warmup=False)
    for _ in range(2):
        model(torch.randn(8, 3))
    ema.update(model, 0)
    assert ema.models[0].num_batches_tracked == 2
    assert torch.equal(ema.models[0].running_var, model.running_var)
    assert not torch.equal(ema.models[0].running_var, torch.ones(3))


def test_nothing_but_weights_is_saved():
    """So a resumed run needs no counter: the number of updates is an argument."""
    model = SmallNetwork()
    assert set(EMA(model, (0.9,)).state_dict()) == {f"models.0.{key}" for key in model.state_dict()}


@pytest.mark.parametrize("rates", [(), (1.0,), (0.9, -0.1)])
def test_bad_rates_are_named(rates):
    with pytest.raises(ValueError, match="rates="):
        EMA(SmallNetwork(), rates)
