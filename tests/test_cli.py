"""What a newcomer types: fit, test, sample, invert; and what stands on the disk and on the screen afterwards."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from small_runs import config, fit
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_modules import BCMModule, load_denoiser, load_module
from lightning_modules.checkpoint import read_checkpoint
from main import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of a finished BCM run."""
    return fit(tmp_path_factory.mktemp("bcm"))


@pytest.fixture(scope="module")
def last(run):
    return str(run / "checkpoints" / "last.ckpt")


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    """The last checkpoint of a class-conditional CT run."""
    content = config("CTModule", 128)
    content["data"]["init_args"]["conditional"] = True
    return str(fit(tmp_path_factory.mktemp("ct"), content, name="ct") / "checkpoints" / "last.ckpt")


def test_a_run_keeps_its_config_its_checkpoints_and_its_dashboard(run):
    assert run.parts[-2:] == ("small", "000")
    names = {p.name for p in (run / "checkpoints").iterdir()}
    kept = ["images_000000000384.ckpt", "images_000000000512.ckpt", "last.ckpt"]
    assert names == {*kept, *(f"{name}.sha256" for name in kept)}
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["images_seen"] == 512
    events = EventAccumulator(str(run)).Reload()
    assert "train/loss" in events.Tags()["scalars"]
    assert any("inversion" in tag for tag in events.Tags()["images"])


def test_what_fit_says(tmp_path, capsys):
    run = fit(tmp_path)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert any(line.startswith("device:   cpu") and line.endswith("precision 32-true") for line in lines)
    network = load_denoiser(run / "checkpoints" / "last.ckpt").network
    assert f"network:  MLP, {sum(p.numel() for p in network.parameters()):,} parameters, in BCMModule" in lines
    assert f"run:      {run}" in lines
    assert f"  python main.py test --ckpt_path {run}/checkpoints/last.ckpt" in lines
    assert f"  python main.py invert --ckpt_path {run}/checkpoints/last.ckpt --seeds 0-15" in lines
    for advert in ("Tip", "TPU", "Seed set to", "warning", "Warning", "eval mode"):
        assert advert not in out + err


def test_every_start_has_a_directory_of_its_own(tmp_path):
    content = config(images=64)
    assert [fit(tmp_path, content).name for _ in range(2)] == ["000", "001"]


def test_the_saved_config_starts_the_same_run(run, tmp_path):
    """The resolved configuration is complete and a parser accepts it: the same seed gives the same weights."""
    again = fit(tmp_path, yaml.safe_load((run / "config.yaml").read_text()))
    first, second = (read_checkpoint(r / "checkpoints" / "last.ckpt") for r in (run, again))
    assert first["config"] == second["config"].replace(str(tmp_path), str(run.parents[2]))
    for name, weights in first["state_dict"].items():
        assert torch.equal(weights, second["state_dict"][name]), name


def test_links_reach_the_checkpoint(last):
    """Seed, image shape and classes are not in the config; the checkpoint alone rebuilds the module."""
    held = read_checkpoint(last)["hyper_parameters"]
    assert (held["seed"], held["image_shape"], held["num_classes"]) == (1, (1, 8, 8), 0)
    module = load_module(last)
    assert isinstance(module, BCMModule) and module.seed == 1 and module.images_seen == 512
    assert load_denoiser(last)(torch.zeros(2, 1, 8, 8), 80.0).shape == (2, 1, 8, 8)


def test_test_needs_the_checkpoint_alone(run, last, capsys):
    before = (run / "config.yaml").read_text()
    assert main(["test", "--ckpt_path", last]) == 0
    scores = json.loads((run / "scores.json").read_text())
    assert scores["checkpoint"] == last and scores["images_seen"] == 512
    assert (run / "config.yaml").read_text() == before
    assert "note:" not in capsys.readouterr().out


def test_a_checkpoint_that_was_moved_still_holds_its_config(last, tmp_path):
    shutil.copy(last, tmp_path / "moved.ckpt")
    assert main(["test", "--ckpt_path", str(tmp_path / "moved.ckpt"), "--scores.num_images", "10"]) == 0
    assert (tmp_path / "scores.json").is_file()


def test_validate(last, capsys):
    assert main(["validate", "--ckpt_path", last]) == 0
    assert "val/loss" in capsys.readouterr().out


def test_what_is_typed_wins_over_the_checkpoint_and_is_said(run, last, tmp_path, capsys):
    """Lightning's own command line would build the checkpoint's module and not say a word."""
    options = ["--model.init_args.bidirectional_weight=0.5", "--data.init_args.batch_size=32"]
    resumed = fit(
        tmp_path, None, "--ckpt_path", last, "--model.init_args.total_images=576", *options, "--seed_everything=2"
    )
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert sorted(notes) == [
        "note: data.init_args.batch_size is 32 as given, 64 in the checkpoint; 32 is used",
        "note: model.init_args.bidirectional_weight is 0.5 as given, 1.0 in the checkpoint; 0.5 is used",
        "note: model.init_args.total_images is 576 as given, 512 in the checkpoint; 576 is used",
        "note: seed_everything is 2 as given, 1 in the checkpoint; 2 is used",
    ]
    checkpoint = read_checkpoint(resumed / "checkpoints" / "last.ckpt")
    assert checkpoint["hyper_parameters"]["bidirectional_weight"] == 0.5
    assert checkpoint["images_seen"] == 576


def test_another_class_than_the_checkpoints(last, tmp_path, capsys):
    (tmp_path / "ct.yaml").write_text(yaml.safe_dump(config("CTModule")))
    assert main(["test", "--config", str(tmp_path / "ct.yaml"), "--ckpt_path", last]) == 2
    out, err = capsys.readouterr()
    assert "note: model is lightning_modules.CTModule as given, lightning_modules.BCMModule in the checkpoint" in out
    assert err.startswith("error: the checkpoint's weights do not fit the model") and err.count("\n") == 1


def test_a_complete_run_says_so(last, tmp_path, capsys, caplog):
    with caplog.at_level("INFO"):
        assert main(["fit", "--ckpt_path", last, "--trainer.default_root_dir", str(tmp_path)]) == 0
    assert "The run is complete: 512 of 512 images seen." in caplog.text
    assert not list(tmp_path.glob("*/*/checkpoints/*"))


def test_sample_writes_an_image_for_each_seed(last, tmp_path, capsys):
    assert main(["sample", "--ckpt_path", last, "--seeds", "0-4,9", "--steps", "2", "--out", str(tmp_path / "a")]) == 0
    assert "6 images" in (out := capsys.readouterr().out) and "2 network evaluations each (counted)" in out
    names = ["000000.png", "000001.png", "000002.png", "000003.png", "000004.png", "000009.png", "grid.png"]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == names
    options = ["--seeds", "9,1", "--steps", "2", "--batch_size", "1", "--subdirs", "--no-grid"]
    assert main(["predict", "--ckpt_path", last, "--out", str(tmp_path / "b"), *options]) == 0
    for name in ("000009.png", "000001.png"):  # whatever the batch, and whatever else is generated
        first, second = (np.asarray(Image.open(tmp_path / folder / name), int) for folder in ("a", "b/000000"))
        assert first.shape == (8, 8) and abs(first - second).max() <= 1
    assert not (tmp_path / "b" / "grid.png").exists()


def test_sample_of_a_class(conditional, tmp_path, capsys):
    options = ["--seeds", "0-3", "--npz", "--no-grid"]
    assert main(["sample", "--ckpt_path", conditional, "--out", str(tmp_path), "--class", "7", *options]) == 0
    with np.load(tmp_path / "samples.npz") as held:
        assert held["arr_0"].shape == (4, 8, 8, 1) and held["arr_0"].dtype == np.uint8
        assert held["arr_1"].tolist() == [7] * 4 and held["seeds"].tolist() == [0, 1, 2, 3]
    assert main(["sample", "--ckpt_path", conditional, "--out", str(tmp_path), "--class", "10"]) == 2
    assert "--class 10: this model has the classes 0 to 9" in capsys.readouterr().err


def test_sample_refuses_steps_without_a_plan(last, tmp_path, capsys):
    assert main(["sample", "--ckpt_path", last, "--steps", "7", "--out", str(tmp_path)]) == 2
    assert "steps=7" in capsys.readouterr().err
    assert main(["sample", "--ckpt_path", last, "--class", "1", "--out", str(tmp_path)]) == 2
    assert "this model is unconditional" in capsys.readouterr().err


@pytest.mark.parametrize("steps", [1, 2])
def test_invert(last, tmp_path, steps, capsys):
    options = ["--seeds", "0-17", "--steps", str(steps), "--batch_size", "5", "--out", str(tmp_path)]
    assert main(["invert", "--ckpt_path", last, *options]) == 0
    out = capsys.readouterr().out
    assert f"18 test images through the levels 0.07 -> {'15 -> ' * (steps - 1)}80 -> 0.002" in out
    assert f"{steps} network evaluations in, 1 out (counted)" in out
    values = {line.split("  ")[1].split(":")[0].strip(): float(line.split()[-1]) for line in out.splitlines()[1:5]}
    assert set(values) == {"error", "control", "variance of these images", "standard deviation of the noise / 80"}
    assert 0 < values["control"] < 0.01 < values["error"]  # next to nothing is learned, and 0.07 is little noise
    grid = Image.open(tmp_path / "grid.png")
    assert grid.width / 16 == pytest.approx(42, abs=1) and grid.height / 6 == pytest.approx(42, abs=1)


def test_invert_agrees_with_the_scores(last, tmp_path, capsys):
    """The same images, noise and levels as `evaluation.inversion` measures."""
    from datamodules import DigitsDataModule
    from evaluation.inversion import score_inversion

    assert main(["invert", "--ckpt_path", last, "--seeds", "0-9", "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    score = score_inversion(load_denoiser(last), DigitsDataModule().uint8_images("test")[0][:10], (0.07, 80.0))
    printed = [float(line.split()[-1]) for line in lines[1:5]]
    assert printed == pytest.approx([score.error, score.denoising_error, score.variance, score.noise_ratio], abs=1e-4)


def test_invert_needs_a_bidirectional_model(conditional, last, tmp_path, capsys):
    assert main(["invert", "--ckpt_path", conditional, "--out", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "holds a CTModule" in err and "BCMModule" in err and err.count("\n") == 1
    assert main(["invert", "--ckpt_path", last, "--seeds", "360", "--out", str(tmp_path)]) == 2
    assert "the test split has the images 0 to 359" in capsys.readouterr().err
