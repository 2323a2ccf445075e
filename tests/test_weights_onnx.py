"""Denoisers as ONNX files, run by onnxruntime."""

import sys

import pytest
import torch

from diffusion.denoisers import BidirectionalDenoiser, ConsistencyDenoiser, GeneratorDenoiser
from networks import MLP, UNet
from weights.onnx import Positional, example_inputs, save_onnx
from weights.table import WeightsError

UNET = {"channels": 16, "channel_mult": (1, 2), "num_blocks": 1, "attention_resolutions": (4,)}


def random(network):
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.eval().requires_grad_(False)


def mlp(**options):
    return random(MLP((1, 8, 8), 0, width=16, depth=1, embedding_channels=8, **options))


DENOISERS = {
    "consistency": (lambda: ConsistencyDenoiser(random(UNet((1, 8, 8), 3, **UNET))), 3, ["x", "sigma", "label"]),
    "bidirectional": (lambda: BidirectionalDenoiser(mlp(bidirectional=True)), 0, ["x", "sigma", "target"]),
    "generator": (lambda: GeneratorDenoiser(mlp(latent_size=3)), 0, ["x", "sigma", "latent"]),
}


@pytest.mark.parametrize("kind", list(DENOISERS))
def test_inputs_are_the_denoisers(kind):
    make, num_classes, names = DENOISERS[kind]
    denoiser = make()
    inputs = example_inputs(denoiser, (1, 8, 8), num_classes)
    assert list(inputs) == names
    x, sigma, rest = inputs.values()
    given = Positional(denoiser, tuple(names[2:]))(list(inputs.values()))
    assert torch.equal(given, denoiser(x, sigma, **{names[2]: rest}))


def test_what_is_not_installed_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(WeightsError, match=r"pip install -e '.\[export\]'"):
        save_onnx(DENOISERS["generator"][0](), tmp_path / "a.onnx", (1, 8, 8), 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(DENOISERS))
def test_same_outputs_at_another_batch_size(kind, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    make, num_classes, names = DENOISERS[kind]
    denoiser = make()
    assert save_onnx(denoiser, tmp_path / "a.onnx", (1, 8, 8), num_classes) == names
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    generator = torch.Generator().manual_seed(1)
    values = {
        "x": torch.randn(5, 1, 8, 8, generator=generator),
        "sigma": torch.tensor([80.0, 5.0, 0.5, 0.05, 0.002]),
        "label": torch.tensor([0, 1, 2, -1, 0]),
        "target": torch.tensor([0.002, 80.0, 0.5, 1.0, 3.0]),
        "latent": torch.randn(5, 3, generator=generator),
    }
    inputs = {name: values[name] for name in names}
    (out,) = session.run(["x0"], {name: value.numpy() for name, value in inputs.items()})
    expected = Positional(denoiser, tuple(names[2:]))(list(inputs.values()))
    torch.testing.assert_close(torch.from_numpy(out), expected, rtol=1e-5, atol=1e-5)
