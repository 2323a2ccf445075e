"""search-schedule --inversion: what is minimised, what is written, and that invert takes it."""

import re
from itertools import pairwise

import pytest
import torch
import yaml
from test_cli_image_to_image import trained

from datamodules import DigitsDataModule
from diffusion.pixels import from_uint8, to_uint8
from diffusion.rng import ImageNoise
from evaluation.inversion import squared_error
from evaluation.scorer import random_part
from lightning_modules import load_module
from main import main


@pytest.fixture(scope="module")
def bcm(tmp_path_factory):
    """Class-conditional."""
    return trained(tmp_path_factory.mktemp("bcm"), "BCMModule", conditional=True)


@pytest.fixture
def places(tmp_path):
    return ["--cache", str(tmp_path / "cache.json"), "--out", str(tmp_path / "found.yaml")]


def search(path, *options):
    return main(
        ["search-schedule", "--ckpt_path", path, "--inversion", "--num_images", "20", "--grid", "8", *map(str, options)]
    )


def error_by_hand(path, levels, back=()):
    """Of 20 training images, one at a time."""
    denoise = load_module(path).ema_denoiser
    images, labels = random_part(*DigitsDataModule(conditional=True).uint8_images("train"), 20)
    errors = []
    for i, image in enumerate(images):
        label = labels[i : i + 1]
        x = from_uint8(image[None]) + levels[0] * ImageNoise([i], (1, 8, 8))()
        with torch.no_grad():
            for t, u in pairwise(levels):
                x = denoise(x, t, label, target=u)
            for t, u in zip((levels[-1], *back), (*back, denoise.sigma_min), strict=True):
                x = denoise(x, t, label, target=u)
        errors.append(float(squared_error(to_uint8(x), image[None])))
    return sum(errors) / len(errors)


@pytest.mark.parametrize("both_ways", [False, True])
def test_the_levels_found_are_the_best_of_the_grid(bcm, places, tmp_path, capsys, both_ways):
    assert search(bcm, *places, "--check", *["--both_ways"] * both_ways) == 0
    out = capsys.readouterr().out
    table = re.findall(r"^ +\d+  (0\.07 > [\d. >]+?) +([\d.]+)  [\d.]+ s$", out, re.M)
    assert len(table) == 2 + 6 and [levels for levels, _ in table[:2]] == ["0.07 > 80", "0.07 > 15 > 80"]
    held = yaml.safe_load((tmp_path / "found.yaml").read_text())
    (small, middle, high), back = held["inversion"], held["back"]
    assert (held["module"], small, high, back) == ("BCMModule", 0.07, 80.0, [middle] * both_ways)
    best = min((float(score), levels) for levels, score in table if levels.count(">") == 2)
    assert best[1] == f"0.07 > {middle:.4g} > 80"
    assert best[0] == pytest.approx(error_by_hand(bcm, (small, middle, high), back), rel=0.02)
    assert "inversion_error" in out and "standard deviation of the noise / 80" in out


def test_nothing_is_measured_twice(bcm, places, capsys):
    assert search(bcm, *places, "--steps", 3) == 0
    assert "known" not in capsys.readouterr().out
    assert search(bcm, *places, "--steps", 3) == 0
    assert "0 of them new" in capsys.readouterr().out
    assert search(bcm, *places, "--steps", 3, "--both_ways") == 0
    assert "known" not in capsys.readouterr().out  # another way back is another score


@pytest.mark.parametrize("both_ways", [False, True])
def test_invert_takes_the_file(bcm, places, tmp_path, capsys, both_ways):
    assert search(bcm, *places, "--steps", 3, *["--both_ways"] * both_ways) == 0
    said = capsys.readouterr().out.split("next:\n")[1].split()
    assert said[:3] == ["python", "main.py", "invert"]
    options = [*said[2:], "--out", str(tmp_path / "o"), "--seeds", "0-4"]
    assert main(options) == 0
    assert f"3 network evaluations in, {3 if both_ways else 1} out (counted)" in capsys.readouterr().out
    assert main([*options, "--steps", "2"]) == 2
    assert "--steps 2: the levels 0.07 > " in capsys.readouterr().err


def test_what_cannot_be_inverted_is_refused(bcm, teacher, places, capsys):
    assert search(teacher, *places) == 2
    assert "a DiffusionModule leads from noise to data only" in capsys.readouterr().err
    assert main(["search-schedule", "--ckpt_path", bcm, "--both_ways"]) == 2
    assert "--both_ways is of --inversion" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("module: CTModule\ninversion: [0.07, 80.0]\nback: []", "it is for a CTModule"),
        ("module: BCMModule\ninversion: [80.0, 0.07]\nback: []", "must ascend"),
        ("module: BCMModule\ninversion: [0.07, 90.0]\nback: []", "at most sigma_max = 80"),
        ("module: BCMModule\ninversion: [-1, 80.0]\nback: []", "must ascend"),
        ("module: BCMModule\ninversion: [0.07, 80.0]\nback: [0.001]", "all above sigma_min"),
        ("module: BCMModule\ninversion: [0.07, 80.0]\nback: [5, 7]", "descend"),
        ("module: BCMModule\ninversion: [80.0]\nback: []", "a list of two or more numbers"),
        ("module: BCMModule\ninversion: [0.07, eighty]\nback: []", "a list of two or more numbers"),
        ("module: BCMModule\nlevels: [80.0, 5.0]", "it must hold module and inversion and back"),
        ("module: [", "this is not YAML"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(bcm, tmp_path, capsys, text, message):
    (tmp_path / "s.yaml").write_text(text)
    assert main(["invert", "--ckpt_path", bcm, "--schedule", str(tmp_path / "s.yaml"), "--out", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
