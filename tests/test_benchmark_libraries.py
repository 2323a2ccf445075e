"""What `benchmarks.libraries` times is the same work on both sides."""

import json

import pytest
import torch

pytest.importorskip("diffusers")

from benchmarks import libraries
from benchmarks.shapes import Shape

TINY = Shape(8, 32, (1, 2), 1, (4,), 8, batch_size=2)


@pytest.fixture
def calls(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield libraries.sampling(TINY, 2, tmp_path)


@pytest.mark.parametrize("what", ["sample_1", "sample_2"])
def test_both_sample_as_many_images_with_as_many_evaluations(calls, what):
    counts = []
    ours, theirs = calls[what, "ours"], calls[what, "diffusers"]
    for network, call in ((ours.args[0].network, ours), (theirs.args[0].unet, theirs)):
        seen = []
        hook = network.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        assert call().shape == (2, 3, 8, 8)
        hook.remove()
        counts.append(len(seen))
    assert counts == [int(what[-1])] * 2


def test_both_networks_are_one(calls):
    f, pipeline = calls["sample_1", "ours"].args[0], calls["sample_1", "diffusers"].args[0]
    with torch.no_grad():
        x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        time = torch.full((2,), 250.0)
        mine, its = f.network(x, time / 1000), pipeline.unet(x, time).sample
        assert mine.std() > 0.1 and torch.allclose(mine, its, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_both_scores_agree(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        calls = libraries.scoring(10, libraries.random_weights(tmp_path))
    ours, theirs = calls["scoring", "ours"](), calls["scoring", "torch-fidelity"]()
    for name, value in ours.items():
        assert theirs[name] == pytest.approx(value, rel=1e-3, abs=1e-6), name


def test_the_command_prints_ratios_and_writes_them(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(libraries.SHAPES, "small", TINY)
    libraries.main(["--images", "0", "--repeats", "2", "--json", str(tmp_path / "out.json")])
    assert "times as fast" in capsys.readouterr().out
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [(row["what"], row["code"], "speedup" in row) for row in rows] == [
        ("sample_1", "ours", True),
        ("sample_1", "diffusers", False),
        ("sample_2", "ours", True),
        ("sample_2", "diffusers", False),
    ]
    with pytest.raises(SystemExit):
        libraries.main(["--images", "5"])
    assert "an Inception score has 10 splits" in capsys.readouterr().err
