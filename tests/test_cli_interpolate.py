"""`interpolate`: between real images by inversion, between generated ones by their noises, and what is refused."""

import json

import numpy as np
import pytest
import torch
from test_cli_image_to_image import pixels, trained

from cli.noise_between import NoiseBetween
from datamodules import DigitsDataModule
from diffusion.pixels import from_uint8, to_uint8
from diffusion.rng import ImageNoise
from evaluation.restoration import psnr
from lightning_modules import load_denoiser
from main import main
from tasks.few_step import slerp


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("plain"), "BCMModule")


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    """Class-conditional."""
    return trained(tmp_path_factory.mktemp("ct"), "CTModule", conditional=True)


@pytest.fixture(scope="module")
def ufogen(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("ufogen"), "UFOGenModule")


def run(command, ckpt_path, out, *options):
    return main([command, "--ckpt_path", ckpt_path, "--out", str(out), *map(str, options)])


def scores(out):
    return json.loads((out / "scores.json").read_text())


def test_the_ends_of_an_interpolation_are_the_inversions(plain, tmp_path, capsys):
    assert run("interpolate", plain, tmp_path, "--seeds", "0-3", "--frames", 3) == 0
    grid = pixels(tmp_path / "grid.png")
    cells = [grid[2:42:5, 2 + 42 * i : 42 + 42 * i : 5] for i in range(5)]  # five times as large
    cells = [cell[..., 0] if cell.ndim == 3 else cell for cell in cells]
    images = DigitsDataModule().uint8_images("test")[0]
    assert grid.shape[:2] == (2 + 2 * 42, 2 + 5 * 42)
    assert (cells[0] == images[0, 0].numpy()).all() and (cells[4] == images[1, 0].numpy()).all()
    denoise = load_denoiser(plain)
    for cell, image in ((cells[1], images[:1]), (cells[3], images[1:2])):
        x0 = from_uint8(image) + 0.07 * ImageNoise([0], (1, 8, 8))()  # of the same initial noise
        with torch.no_grad():
            back = to_uint8(denoise(denoise(x0, 0.07, target=80.0), 80.0))
        assert np.abs(cell - back[0, 0].numpy()).max() <= 1
    assert "2 pairs" in capsys.readouterr().out


def test_frames_and_scores_of_every_pair(plain, tmp_path, capsys):
    """Beside the ends, which inversion alone leaves, the control: one evaluation at the level of the small noise."""
    assert run("interpolate", plain, tmp_path, "--seeds", "0-3", "--frames", 3, "--steps", 2) == 0
    found, images = scores(tmp_path), DigitsDataModule().uint8_images("test")[0]
    assert found["pairs"] == ["000000-000001", "000002-000003"] and found["seeds"] == [0, 2]
    assert (found["levels"], found["back"], found["small"]) == ([0.07, 15.0, 80.0], [15.0], 0.07)
    assert found["nfe"] == pytest.approx(2 + 4 / 3)
    names = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.glob("*/*.png"))
    assert names == [f"{pair}/{i:02d}.png" for pair in found["pairs"] for i in range(3)]
    denoise = load_denoiser(plain)
    for pair in range(2):
        for end in range(2):
            image = images[2 * pair + end][None]
            frame = torch.tensor(pixels(tmp_path / found["pairs"][pair] / f"{2 * end:02d}.png"), dtype=torch.uint8)
            assert found["scores"]["ends"]["psnr"][pair][end] == pytest.approx(float(psnr(frame[None, None], image)))
            with torch.no_grad():
                x0 = from_uint8(image) + 0.07 * ImageNoise([2 * pair], (1, 8, 8))()
                control = to_uint8(denoise(x0, 0.07))
            assert found["scores"]["control"]["psnr"][pair][end] == pytest.approx(float(psnr(control, image)), abs=0.1)
    assert "the control, 0.07 noise taken away without inversion" in capsys.readouterr().out


def test_frames_overwrite_no_input(plain, tmp_path, capsys):
    assert run("interpolate", plain, tmp_path, "--seeds", "0,1", "--frames", 2) == 0
    folder = (tmp_path / "000000-000001").rename(tmp_path / "00-01")
    assert run("interpolate", plain, tmp_path, "--input", folder, "--frames", 2) == 2
    assert "00-01/00.png, one of the inputs, would be overwritten" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["ct", "ufogen"])
def test_the_ends_between_noises_are_samples(model, tmp_path, request, capsys):
    """Of a model that goes from noise to data only; the other end as of the first one's class."""
    ckpt_path = request.getfixturevalue(model)
    assert run("interpolate", ckpt_path, tmp_path / "a", "--seeds", "5,2,7,1", "--frames", 3, "--batch_size", 1) == 0
    assert "1 network evaluations for each (counted)" in capsys.readouterr().out
    found = scores(tmp_path / "a")
    assert found["pairs"] == ["000005-000002", "000007-000001"] and found["seeds"] == [[5, 2], [7, 1]]
    label = () if found["classes"] is None else ("--class", found["classes"][0])
    assert (model == "ct") == bool(label) and "scores" not in found
    assert run("sample", ckpt_path, tmp_path / "first", "--seeds", 5) == 0
    assert run("sample", ckpt_path, tmp_path / "second", "--seeds", 2, *label) == 0
    frames = [pixels(tmp_path / "a" / "000005-000002" / f"{i:02d}.png") for i in range(3)]
    assert np.abs(frames[0] - pixels(tmp_path / "first" / "000005.png")).max() <= 1
    if model == "ct":  # a generator's latent is the first one's
        assert np.abs(frames[2] - pixels(tmp_path / "second" / "000002.png")).max() <= 1
    assert pixels(tmp_path / "a" / "grid.png").shape[:2] == (2 + 2 * 42, 2 + 3 * 42)


def test_later_noise_and_latents_are_the_same_for_all_frames_of_a_pair():
    def source(seed):
        return ImageNoise([seed, seed + 9], (1, 4, 4))

    first, second = source(0), source(1)
    start = slerp(first(), second(), 0.3)
    noise = NoiseBetween(source(0), source(1), 0.3)
    assert len(noise) == 2 and torch.equal(noise(), start)
    assert torch.equal(noise(), first()) and torch.equal(noise.vector(3), first.vector(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--input", "x.png"),
            "whose model goes from noise to data only: --input needs a BCMModule or a DiffusionModule",
        ),
        (("--small", 0.1), "whose model goes from noise to data only: --small needs"),
        (("--schedule", "x.yaml"), "whose model goes from noise to data only: --schedule needs"),
        (("--data", "x.yaml"), "whose model goes from noise to data only: --data needs"),
        (("--seeds", "0-2"), "3 seeds: an even number is needed"),
        (("--class", 10), "--class 10: this model has the classes 0 to 9"),
        (("--steps", 30), "steps=30"),
    ],
)
def test_bad_use_between_noises_is_refused_in_one_line(ct, tmp_path, capsys, options, message):
    assert run("interpolate", ct, tmp_path / "out", *options) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not (tmp_path / "out").exists()
