"""`interpolate`: between real images by inversion, and what is refused."""

import json

import numpy as np
import pytest
import torch
from test_cli_image_to_image import pixels, trained

from datamodules import DigitsDataModule
from diffusion.pixels import from_uint8, to_uint8
from diffusion.rng import ImageNoise
from evaluation.restoration import psnr
from lightning_modules import load_denoiser
from main import main


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("plain"), "BCMModule")


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
