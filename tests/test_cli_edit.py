"""`edit`, and what it shares with `interpolate`: what is written, what is counted, what is refused."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli_image_to_image import pixels, trained

from datamodules import DigitsDataModule
from diffusion.pixels import from_uint8, to_uint8
from diffusion.rng import ImageNoise
from evaluation.restoration import psnr
from lightning_modules import load_denoiser
from main import main


@pytest.fixture(scope="module")
def bcm(tmp_path_factory):
    """Class-conditional."""
    return trained(tmp_path_factory.mktemp("bcm"), "BCMModule", conditional=True)


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("diffusion"), "DiffusionModule", conditional=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("plain"), "BCMModule")


def scores(out):
    return json.loads((out / "scores.json").read_text())


def run(command, ckpt_path, out, *options):
    return main([command, "--ckpt_path", ckpt_path, "--out", str(out), *map(str, options)])


def test_an_edit_is_inversion_and_generation(bcm, tmp_path, capsys):
    """By hand, image by image."""
    assert run("edit", bcm, tmp_path, "--to", 3, "--seeds", "0-2", "--batch_size", 2) == 0
    denoise, (images, labels) = load_denoiser(bcm), DigitsDataModule(conditional=True).uint8_images("test")
    for i in range(3):
        x0 = from_uint8(images[i : i + 1]) + 0.07 * ImageNoise([i], (1, 8, 8))()
        with torch.no_grad():
            noise = denoise(x0, 0.07, labels[i : i + 1], target=80.0)
            made = to_uint8(denoise(noise, 80.0, torch.tensor([3])))
        assert np.abs(pixels(tmp_path / f"{i:06d}.png") - made[0, 0].numpy()).max() <= 1
    said = capsys.readouterr().out
    assert "2 network evaluations each (counted)" in said and "read as class 3 by the data's classifier" in said


def test_a_diffusion_model_takes_its_ode(diffusion, tmp_path, capsys):
    options = ("--steps", 12, "--seeds", "0,1")
    assert run("edit", diffusion, tmp_path, "--to", 3, *options) == 0
    assert "48 network evaluations each" in capsys.readouterr().out  # Heun's two, each way
    found = scores(tmp_path)
    assert found["scores"].keys() == {"edited", "regenerated"} and found["small"] is None  # it has no small noise
    assert (len(found["levels"]), len(found["back"]), found["nfe"]) == (13, 11, 48)
    assert Image.open(tmp_path / "grid.png").size[0] > 16


def test_the_scores_stand_beside_the_control(bcm, tmp_path, capsys):
    """PSNR to the inputs of the result, of inversion alone, and of one evaluation at the level of the small noise."""
    assert run("edit", bcm, tmp_path, "--to", 3, "--seeds", "2,0", "--small", 0.2) == 0
    denoise, (images, labels) = load_denoiser(bcm), DigitsDataModule(conditional=True).uint8_images("test")
    found, said = scores(tmp_path), capsys.readouterr().out
    assert (found["task"], found["to"], found["small"], found["seeds"]) == ("edit", 3, 0.2, [2, 0])
    assert (found["levels"], found["back"], found["nfe"]) == ([0.2, 80.0], [], 2)
    assert found["from"] == labels[[2, 0]].tolist() and found["images"] == ["000002", "000000"]
    assert 0 <= found["read_as_target"] <= 1 and found["checkpoint"] == bcm
    for row, i in enumerate((2, 0)):
        image, label = images[i : i + 1], labels[i : i + 1]
        x = from_uint8(image) + 0.2 * ImageNoise([i], (1, 8, 8))()
        with torch.no_grad():
            noise = denoise(x, 0.2, label, target=80.0)
            made = {
                "edited": denoise(noise, 80.0, torch.tensor([3])),
                "regenerated": denoise(noise, 80.0, label),
                "control": denoise(x, 0.2, label),
            }
        for name, x0 in made.items():
            assert found["scores"][name]["psnr"][row] == pytest.approx(float(psnr(to_uint8(x0), image)), abs=0.1)
    control = sum(found["scores"]["control"]["psnr"]) / 2
    assert f"the control, 0.2 noise taken away without inversion: {control:.4g} dB" in said


@pytest.mark.parametrize("way", ["steps", "file"])
def test_several_evaluations_each_way(bcm, tmp_path, way):
    """Through the levels of the module's `inversions`, or those of a file there and back."""
    up, back = ((0.07, 15.0, 80.0), (15.0,)) if way == "steps" else ((0.1, 5.0, 80.0), (20.0, 3.0))
    (tmp_path / "way.yaml").write_text(f"module: BCMModule\ninversion: {list(up)}\nback: {list(back)}")
    options = ("--steps", 2) if way == "steps" else ("--schedule", tmp_path / "way.yaml")
    assert run("edit", bcm, tmp_path / "out", "--to", 3, "--seeds", "4", *options) == 0
    denoise, (images, labels) = load_denoiser(bcm), DigitsDataModule(conditional=True).uint8_images("test")
    x = from_uint8(images[4:5]) + up[0] * ImageNoise([4], (1, 8, 8))()
    with torch.no_grad():
        for t, u in pairwise(up):
            x = denoise(x, t, labels[4:5], target=u)
        for t, u in pairwise((80.0, *back, 0.002)):
            x = denoise(x, t, torch.tensor([3]), target=u)
    assert np.abs(pixels(tmp_path / "out" / "000004.png") - to_uint8(x)[0, 0].numpy()).max() <= 1
    found = scores(tmp_path / "out")
    assert (found["levels"], found["back"], found["nfe"]) == (list(up), list(back), len(up) + len(back))


def test_what_a_diffusion_model_has_no_use_for_is_refused(diffusion, tmp_path, capsys):
    for option in (("--small", 0.1), ("--schedule", "way.yaml")):
        assert run("edit", diffusion, tmp_path / "out", "--to", 3, *option) == 2
        err = capsys.readouterr().err
        assert f"{option[0]} is of a bidirectional model; a DiffusionModule is inverted by its ODE" in err
        assert err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_own_images_of_a_class(bcm, diffusion, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(2):
        Image.fromarray(np.full((12, 9, 3), 60 + 99 * i, np.uint8)).save(folder / f"{i}.png")
    options = ("--input", folder)
    assert run("edit", bcm, tmp_path / "edited", "--from", 1, "--to", 7, *options) == 0
    assert {p.name for p in (tmp_path / "edited").iterdir()} == {"0.png", "1.png", "grid.png", "scores.json"}
    assert run("interpolate", diffusion, tmp_path / "between", "--class", 1, "--steps", 2, *options) == 0


def test_a_file_that_cannot_be_read_stops_neither_the_others_nor_their_pairs(bcm, tmp_path, capsys):
    """Of an interpolation its own pair is left out, and the next one is that of the same two."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(4):
        Image.fromarray(np.full((8, 8), 60 * i, np.uint8)).save(folder / f"{i}.png")
    (folder / "1.png").write_bytes(b"torn")
    for command, options in (("edit", ("--from", 1, "--to", 7)), ("interpolate", ("--class", 1, "--frames", 2))):
        assert run(command, bcm, tmp_path / command, "--input", folder, *options) == 2
        first, last = capsys.readouterr().err.splitlines()
        assert first.startswith(f"left out: {folder}: 1.png: no readable image")
        assert last == "error: 1 file could not be used, as is said above; the others are done"
    assert {p.name for p in (tmp_path / "edit").glob("?.png")} == {"0.png", "2.png", "3.png"}
    grid = pixels(tmp_path / "interpolate" / "grid.png")  # one row: image 2, two frames, image 3
    assert grid.shape[:2] == (2 + 42, 2 + 4 * 42) and grid[20, 20].max() == 120 and grid[20, -20].max() == 180
    (folder / "2.png").write_bytes(b"torn")
    assert run("interpolate", bcm, tmp_path / "none", "--input", folder, "--class", 1) == 2
    assert "error: of no pair could both images be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("edit", ("--to", 10), "--to 10: this model has the classes 0 to 9"),
        ("edit", ("--to", 1, "--small", 80), "--small 80: it must lie in [0, 80)"),
        ("edit", ("--to", 1, "--steps", 3), "steps=3: inversions are set for [1, 2]"),
        ("edit", ("--to", 1, "--schedule", "nowhere.yaml"), "--schedule nowhere.yaml: there is no such file"),
        (
            "edit",
            ("--to", 1, "--schedule", "x", "--small", 1),
            "argument --small: not allowed with argument --schedule",
        ),
        ("edit", ("--to", 1, "--input", "x", "--data", "x"), "argument --data: not allowed with argument --input"),
        ("edit", ("--to", 1, "--from", 11), "--from 11: this model has the classes 0 to 9"),
        ("interpolate", ("--frames", 1), "--frames 1: the two ends are at least two"),
        ("interpolate", ("--seeds", "0-2"), "3 images: an even number is needed"),
    ],
)
def test_bad_input_is_refused_in_one_line(bcm, tmp_path, capsys, command, options, message):
    assert run(command, bcm, tmp_path / "out", *options) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_models_that_cannot_are_refused(plain, tmp_path_factory, tmp_path, capsys):
    ct = trained(tmp_path_factory.mktemp("ct"), "CTModule")
    assert run("edit", ct, tmp_path, "--to", 1) == 2
    assert "whose model goes from noise to data only" in capsys.readouterr().err
    assert run("edit", plain, tmp_path, "--to", 1) == 2
    assert "--to 1: this model is unconditional" in capsys.readouterr().err
