"""The callback that scores a model at the end of `test`, on one process and on two."""

import json

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from datamodules.digits import DigitsDataModule
from diffusion.denoisers import BidirectionalDenoiser, ConsistencyDenoiser
from diffusion.ema import EMA
from evaluation.classifier import ClassifierFeatures
from evaluation.protocol import Protocol
from evaluation.scorer import Scorer


class Network(nn.Module):
    """A convolution that knows its label and no level."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x, c_noise, label=None, c_target=None):
        y = self.convolution(x)
        return y if label is None else y + (label.reshape(-1, 1, 1, 1) - 4.5) / 10


class Module(LightningModule):
    """Fulfils the contract of docs/architecture.md, untrained; chains its denoiser `steps` times."""

    image_shape = (1, 8, 8)
    images_seen = 1234
    inversions = ((0.07, 80.0), (0.07, 15.0, 80.0))

    def __init__(self, wrapper=ConsistencyDenoiser, num_classes=0):
        super().__init__()
        self.num_classes = num_classes
        self.denoiser = wrapper(Network())
        self.ema = EMA(self.denoiser, rates=(0.99, 0.9))

    @property
    def ema_denoiser(self):
        return self.ema.models[0]

    def sample(self, noise, steps, label=None):
        assert (label is not None) == (self.num_classes > 0)
        x = self.ema_denoiser(80.0 * noise(), 80.0, label)
        for _ in range(steps - 1):
            x = self.ema_denoiser(x + noise(), 1.0, label)
        return x

    def test_step(self, batch, batch_idx):
        pass


def run(tmp_path, module, conditional=False, devices=1, **options):
    """Test the module on the digits; gives the content of scores.json."""
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp_spawn" if devices > 1 else "auto",
        logger=CSVLogger(tmp_path, name="", version=""),
        default_root_dir=tmp_path,
        callbacks=[Scorer(num_images=30, batch_size=8, **options)],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.test(module, datamodule=DigitsDataModule(conditional=conditional), verbose=False)
    return json.loads((tmp_path / "scores.json").read_text())


def test_scores_are_printed_written_and_logged(tmp_path, capsys):
    content = run(tmp_path, Module())
    sources = [(s["protocol"]["source"]["steps"], s["protocol"]["reference"]) for s in content["scores"]]
    assert sources == [(1, "train"), (1, "test"), (2, "train"), (2, "test"), (4, "train"), (4, "test")]
    for entry in content["scores"]:
        protocol = Protocol.from_dict(entry["protocol"])
        assert protocol.images == protocol.reference_images == 30
        assert protocol.source.nfe == protocol.source.steps  # counted: this sampler evaluates once a step
        assert (protocol.source.seeds, protocol.source.batch_size) == ("0-29", 8)
        assert (protocol.source.ema_rate, protocol.source.images_seen) == (0.99, 1234)
        assert protocol.source.dtype == "float32" and protocol.source.seconds_per_image > 0
        assert len(protocol.features_sha256) == 64
        assert set(entry["distances"]) == {f"{name}_digits" for name in ("fd", "kd", "precision", "recall")}
        assert {f"{name}_digits" for name in ("cs", "confident", "confidence")} < set(entry["alone"])
    assert [floor["protocol"]["source"]["name"] for floor in content["floors"]] == ["real: test", "real: half of train"]
    assert content["inversions"] == [] and content["module"] == "Module" and content["images_seen"] == 1234

    printed = capsys.readouterr().out
    assert all(word in printed for word in ("precision", "_digits", "confident", "ms each", "half of train"))
    assert "…" not in printed  # nothing was cut
    assert content["scores"][0]["protocol"]["features_sha256"][:12] in printed
    logged = (tmp_path / "metrics.csv").read_text()
    assert "scores/fd_digits/train_1_steps" in logged and "1234" in logged


def test_a_bidirectional_model_is_inverted(tmp_path, capsys):
    content = run(tmp_path, Module(BidirectionalDenoiser), steps=[1])
    one, two = content["inversions"]
    assert (one["levels"], one["nfe_in"], one["nfe_out"], one["images"]) == ([0.07, 80.0], 1, 1, 30)
    assert (two["levels"], two["nfe_in"], two["nfe_out"]) == ([0.07, 15.0, 80.0], 2, 1)
    assert one["variance"] == pytest.approx(0.073, rel=0.1)
    assert "control" in capsys.readouterr().out


def test_a_conditional_model_gets_the_datas_labels(tmp_path):
    content = run(tmp_path, Module(BidirectionalDenoiser, num_classes=10), conditional=True, steps=[1])
    assert "obeyed_digits" in content["scores"][0]["alone"]
    with pytest.raises(ValueError, match="no labels"):
        from evaluation.scorer import class_counts

        class_counts(None, 10)


class OddModule(Module):
    """Has samplers for odd numbers of evaluations alone, 5 by default."""

    def sample(self, noise, steps=5, label=None):
        if steps % 2 == 0:
            raise ValueError(f"steps={steps}: odd numbers alone")
        return super().sample(noise, steps, label)


def test_steps_are_those_that_the_method_has(tmp_path):
    content = run(tmp_path, OddModule())
    assert [s["protocol"]["source"]["nfe"] for s in content["scores"]] == [1, 1, 5, 5]
    with pytest.raises(ValueError, match="steps=2: odd numbers alone"):
        run(tmp_path, OddModule(), steps=[1, 2])


def test_points_have_no_scores(tmp_path):
    module = Module()
    module.image_shape = (2, 1, 1)
    with pytest.raises(FileNotFoundError):
        run(tmp_path, module)


@pytest.mark.slow
def test_two_processes_score_as_one(tmp_path):
    one = run(tmp_path / "one", Module(BidirectionalDenoiser), steps=[2])
    two = run(tmp_path / "two", Module(BidirectionalDenoiser), steps=[2], devices=2)
    for a, b in zip(one["scores"] + one["floors"], two["scores"] + two["floors"], strict=True):
        a["protocol"]["source"].pop("seconds_per_image"), b["protocol"]["source"].pop("seconds_per_image")
        assert a["protocol"] == b["protocol"]
        for kind in ("distances", "alone"):
            assert a[kind] == pytest.approx(b[kind], rel=1e-4, abs=1e-6)
    for a, b in zip(one["inversions"], two["inversions"], strict=True):
        assert (a.pop("levels"), a.pop("split")) == (b.pop("levels"), b.pop("split"))
        assert a == pytest.approx(b, rel=1e-5)


def test_the_callback_parses_from_a_config(tmp_path):
    parser = ArgumentParser()
    parser.add_subclass_arguments(Scorer, "scorer")
    config = {
        "class_path": "evaluation.scorer.Scorer",
        "init_args": {
            "num_images": 50,
            "steps": [1, 2],
            "features": {
                "class_path": "evaluation.classifier.ClassifierFeatures",
                "init_args": {"path": "evaluation/weights/mnist.safetensors"},
            },
        },
    }
    scorer = parser.instantiate(parser.parse_object({"scorer": config})).scorer
    assert isinstance(scorer.features, ClassifierFeatures) and scorer.features.name == "mnist"
    assert (scorer.num_images, scorer.steps) == (50, (1, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": []}, "steps="),
        ({"steps": [0]}, "steps="),
        ({"num_images": 3}, "num_images=3"),
        ({"batch_size": 0}, "=0"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Scorer(**options)


def test_missing_inception_weights_stop_the_test_before_it_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("evaluation.classifier.CIFAR10", tmp_path / "absent")  # else it judges without Inception
    module = Module()
    module.image_shape = (3, 32, 32)
    with pytest.raises(ValueError, match="--inception_weights PATH"):
        run(tmp_path, module)


def test_a_score_says_how_its_images_were_sampled():
    """Else the same number of evaluations at other levels, or by another sampler, could not be told apart."""
    from types import SimpleNamespace

    from diffusion.guidance import Guidance
    from diffusion.ode_samplers import Euler
    from evaluation.scorer import describe_sampling
    from lightning_modules.bcm import PLANS

    consistency = SimpleNamespace(schedules=((80.0,), (80.0, 0.821)))
    assert [describe_sampling(consistency, n) for n in (1, 2, 3)] == ["80", "80 > 0.821", None]
    assert "levels=(80.0, 2.4)" in describe_sampling(SimpleNamespace(plans=PLANS), 2)
    assert describe_sampling(SimpleNamespace(sampler=Euler()), 9) == str(Euler())
    assert "weight=2.0" in describe_sampling(SimpleNamespace(sampler=Euler(), guidance=Guidance(2.0)), 9)
