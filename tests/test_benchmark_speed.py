"""What the speed benchmark measures: turns, ratios, operations, and our networks beside the official ones' size."""

import json

import numpy as np
import pytest
import torch

from benchmarks import speed
from benchmarks.memory import peak_memory
from benchmarks.ours import METHODS, Ours, Variant
from benchmarks.shapes import SHAPES, Shape
from benchmarks.timing import Times, interleave, speedup

TINY = Shape(8, 8, (1, 2), 1, (4,), 8, batch_size=2)
CPU = torch.device("cpu")


def test_cases_take_turns():
    order = []
    timed = interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=3, warmup=1)
    assert order == ["a", "b"] * 4
    assert timed["a"].wall.shape == timed["b"].cpu.shape == (3,)
    with pytest.raises(ValueError, match="repeats=0: at least 1"):
        interleave({}, repeats=0)


def test_speedup_is_of_the_rounds_own_ratios():
    """A machine that turns twice as slow half way through changes no ratio."""
    slow = Times(np.array([3.0, 3.0, 6.0, 6.0]), np.ones(4))
    fast = Times(np.array([2.0, 2.0, 4.0, 4.0]), np.ones(4))
    assert speedup(slow, fast, "wall") == {"median": 1.5, "q1": 1.5, "q3": 1.5}
    assert speedup(slow, fast, "cpu")["median"] == 1
    assert fast.summary("wall") == {"median": 3.0, "q1": 2.0, "q3": 4.0, "min": 2.0}


def test_operations_of_a_matrix_product_and_its_gradient():
    a, b = torch.randn(3, 5, requires_grad=True), torch.randn(5, 7)
    assert speed.operations(lambda: a @ b) == 2 * 3 * 5 * 7
    assert speed.operations(lambda: (a @ b).sum().backward()) == 2 * (2 * 3 * 5 * 7)


@pytest.mark.parametrize(
    ("size", "bidirectional", "parameters"),
    [("small", False, 827_491), ("small", True, 880_995), ("cifar", False, 61_451_779), ("cifar", True, 62_304_771)],
)
def test_networks_are_as_large_as_the_official_ones(size, bidirectional, parameters):
    """Counted in openai/consistency_models at e32b69e and Mosasaur5526/BCM-iCT-torch at 74ad31f; our embedding of
    "cifar" has a first layer twice as wide."""
    with torch.device("meta"):
        network = SHAPES[size].network(bidirectional)
    more = (1 + bidirectional) * 512 * 128 if size == "cifar" else 0
    assert sum(p.numel() for p in network.parameters()) == parameters + more


@pytest.mark.parametrize("method", METHODS)
def test_a_step_trains_and_averages(method):
    ours = Ours(method, TINY, Variant(), CPU)
    before = ours.network.conv_out.weight.clone()
    averaged = ours.module.ema_denoiser.network.conv_out.weight.clone()
    ours.step(torch.rand(2, *TINY.image_shape))
    assert (ours.network.conv_out.weight != before).any()
    assert (ours.module.ema_denoiser.network.conv_out.weight != averaged).any()
    assert ours.module.images_seen == 2
    calls = ours.calls(torch.rand(2, *TINY.image_shape))
    assert set(calls) >= {"step", *(f"sample_{n}" for n in ours.evaluations)}
    assert speed.operations(Ours(method, TINY, Variant(), CPU).calls(torch.rand(2, *TINY.image_shape))["step"]) > 0
    for n in ours.evaluations:
        assert ours.sample(3, n).shape == (3, *TINY.image_shape)


@pytest.mark.parametrize("variant", [Variant(fused=False), Variant(channels_last=True)], ids=lambda v: v.name)
def test_variants_have_the_same_gradient(variant):
    gradients = []
    for v in (Variant(), variant):
        torch.manual_seed(0)
        ours = Ours("bcm", TINY, v, CPU)
        with torch.no_grad():
            for parameter in ours.network.parameters():  # zeroed layers would hide the inner ones
                parameter.copy_(0.3 * torch.randn(parameter.shape))
        ours.gradient(torch.rand(2, *TINY.image_shape, generator=torch.Generator().manual_seed(1)))
        gradients.append(torch.cat([p.grad.flatten() for p in ours.network.parameters()]))
    scale = gradients[0].abs().max()
    torch.testing.assert_close(gradients[1] / scale, gradients[0] / scale, rtol=0, atol=1e-5)
    assert gradients[0].count_nonzero() > 0.9 * gradients[0].numel()


class Hold:
    """Takes memory and keeps it."""

    def __init__(self):
        self.held = []

    def __call__(self):
        self.held.append(torch.ones(20, 1000, 1000, dtype=torch.uint8))


def test_peak_memory_is_what_two_steps_take():
    assert 39 < peak_memory(Hold, threads=1) < 60


def test_the_command_writes_what_it_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(speed.SHAPES, "small", TINY)
    out = tmp_path / "folder" / "out.json"
    speed.main(
        [
            "--methods",
            "ct",
            "bcm",
            "--repeats",
            "2",
            "--no-memory",
            "--variants",
            "float32",
            "unfused",
            "--json",
            str(out),
        ]
    )
    result = json.loads(out.read_text())
    seen = {(row["method"], row["code"], row["measure"]) for row in result["rows"]}
    fused, unfused = "float32", "float32 unfused"
    codes = [("ct", fused), ("bcm", fused), ("bcm", unfused)]
    assert seen == {(*code, measure) for code in codes for measure in ("step", "gradient", "sample_1", "sample_2")}
    assert all(row["seconds"]["median"] > 0 and row["tflop"] > 0 and not row["speedup"] for row in result["rows"])
    flop = {(row["method"], row["code"], row["measure"]): row["tflop"] for row in result["rows"]}
    assert flop["bcm", fused, "step"] == flop["bcm", unfused, "step"]
    assert 0 < result["loading"]["ct small"]["share_of_fastest_step"] < 1
    assert result["machine"]["torch"] == torch.__version__
    assert "--repeats 2" in result["command"] and str(tmp_path) not in result["command"]
    assert "loading a batch" in capsys.readouterr().out
