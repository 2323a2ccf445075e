"""`restore`: every task and method, files that cannot be read, and what is refused."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import config, fit
from test_cli_image_to_image import pixels, trained

from cli.restore_methods import FEW_STEP, INVERTING, MANY_STEP, Case, control
from datamodules import DigitsDataModule
from datamodules.encoded import Limits
from diffusion.rng import ImageNoise
from lightning_modules import load_denoiser
from main import main
from tasks.gradient_guidance import pigdm
from tasks.operators import AveragePool, Grey


@pytest.fixture(scope="module")
def bcm(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("bcm"), "BCMModule")


@pytest.fixture(scope="module")
def ufogen(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("ufogen"), "UFOGenModule")


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory):
    """Class-conditional."""
    return trained(tmp_path_factory.mktemp("diffusion"), "DiffusionModule", conditional=True)


def run(ckpt_path, out, task, *options):
    return main(["restore", "--ckpt_path", ckpt_path, "--out", str(out), "--task", task, *map(str, options)])


def scores(out):
    return json.loads((out / "scores.json").read_text())


def test_what_is_known_is_kept_and_scored(bcm, tmp_path, capsys):
    assert run(bcm, tmp_path, "inpaint", "--seeds", "0-4", "--batch_size", 2) == 0
    truth = DigitsDataModule().uint8_images("test")[0][:5, 0].numpy().astype(int)
    made = np.stack([pixels(tmp_path / f"{i:06d}.png") for i in range(5)])
    hidden = np.zeros((8, 8), bool)
    hidden[2:6, 2:6] = True
    assert (made[:, ~hidden] == truth[:, ~hidden]).all() and (made[:, hidden] != truth[:, hidden]).any()
    found = scores(tmp_path)
    assert (found["task"], found["method"], found["nfe"], len(found["levels"])) == ("inpaint", "zero-shot", 4, 4)
    assert found["scores"]["restored"]["consistency"] == [60] * 5 and found["scores"]["clean"]["psnr"] == [60] * 5
    error = ((made - truth) ** 2).mean((1, 2))
    assert found["scores"]["restored"]["psnr"] == pytest.approx(10 * np.log10(255**2 / error))
    assert "4 network evaluations each (counted)" in capsys.readouterr().out


def test_an_image_is_its_own_seeds(bcm, tmp_path):
    """Whatever else is in the batch."""
    for name, seeds in (("all", "0-3"), ("one", "2")):
        assert run(bcm, tmp_path / name, "upscale", "--seeds", seeds) == 0
    assert np.abs(pixels(tmp_path / "all" / "000002.png") - pixels(tmp_path / "one" / "000002.png")).max() <= 1


@pytest.mark.parametrize("method", ["zero-shot", "corrected", "blind", "inversion", "zigzag", "noise-space"])
def test_a_bidirectional_model_has_the_few_step_methods(bcm, tmp_path, method):
    options = ("--seeds", "0-2", "--steps", 2, "--method", method)
    assert run(bcm, tmp_path, "inpaint", *options) == 0
    found = scores(tmp_path)
    assert found["nfe"] == {"zigzag": 4, "inversion": 3, "noise-space": 3}.get(method, 2)
    assert ("control" in found["scores"]) == (method in ("inversion", "zigzag", "noise-space"))


@pytest.mark.parametrize("method", ["ddnm", "ddrm", "pigdm", "pigdm-adaptive", "dps", "repaint"])
def test_a_diffusion_model_has_the_many_step_methods(diffusion, tmp_path, method):
    assert run(diffusion, tmp_path, "upscale", "--seeds", "0-2", "--steps", 3, "--method", method) == 0
    found = scores(tmp_path)
    assert found["nfe"] == (30 if method == "repaint" else 3) and found["levels"][-1] == pytest.approx(0.002)


def test_the_weight_of_pigdm(diffusion):
    """By name w = t^2, or the paper's r^2."""
    model, operator = load_denoiser(diffusion), AveragePool(2)
    y, levels, label = torch.full((2, 1, 4, 4), 0.3), (2.0, 0.5), torch.tensor([3, 7])

    def draw():
        return ImageNoise([0, 1], (1, 8, 8))

    s = model.sigma_data
    for name, adaptive in (("pigdm", False), ("pigdm-adaptive", True)):
        case = Case(model, operator, y, draw(), label, levels, 0.1, model.sigma_min, model.sigma_max, s)
        expected = pigdm(model, operator, y, levels, draw(), label, sigma_data=s, adaptive=adaptive)
        other = pigdm(model, operator, y, levels, draw(), label, sigma_data=s, adaptive=not adaptive)
        assert torch.equal(MANY_STEP[name](case), expected) and not torch.equal(expected, other)


@pytest.mark.parametrize("method", [FEW_STEP["blind"], INVERTING["inversion"], control])
def test_blind_ways_start_from_what_one_sees(method):
    """A grey photograph in colourising, not the green and purple image that its pseudo-inverse is."""
    seen = []

    def denoise(x, sigma, label=None, target=None):
        seen.append(x)
        return x

    grey, levels = torch.linspace(-1, 1, 32).reshape(2, 1, 4, 4), (1.2e-3, 1.1e-3)
    method(Case(denoise, Grey(), grey, ImageNoise([0, 1], (3, 4, 4)), None, levels, 1.1e-3, 1e-3, 80.0, 0.5))
    assert (seen[0] - grey).abs().max() < 6e-3 < (seen[0] - Grey().pseudo_inverse(grey)).abs().max()


@pytest.mark.parametrize("task", ["unblur", "jpeg"])
def test_other_damage(bcm, tmp_path, task):
    assert run(bcm, tmp_path, task, "--seeds", "0-2", "--steps", 1) == 0
    assert scores(tmp_path)["scores"]["given"]["psnr"][0] < 60


def test_a_generator_starts_at_its_rungs(ufogen, tmp_path):
    assert run(ufogen, tmp_path, "inpaint", "--seeds", "0") == 0
    assert len(scores(tmp_path)["levels"]) == 3  # from the one nearest to 2 down


def test_a_mask_of_ones_own(bcm, tmp_path):
    mask = np.full((8, 8), 255, np.uint8)
    mask[:, :3] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(np.full((8, 8), 77, np.uint8)).save(tmp_path / "photo.png")
    options = ("--mask", tmp_path / "mask.png", "--input", tmp_path / "photo.png", "--damaged")
    assert run(bcm, tmp_path / "out", "inpaint", *options) == 0
    made = pixels(tmp_path / "out" / "photo.png")
    assert (made[:, 3:] == 77).all() and (made[:, :3] != 77).any()
    assert scores(tmp_path / "out")["scores"].keys() == {"restored", "given"}


def test_a_small_image_is_what_was_measured(bcm, tmp_path):
    """Means over blocks of the result are the image that was given, where nothing had to be clipped or rounded."""
    small = torch.randint(100, 150, (4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8).numpy()
    Image.fromarray(small).save(tmp_path / "small.png")
    assert run(bcm, tmp_path / "out", "upscale", "--input", tmp_path / "small.png", "--damaged") == 0
    made = pixels(tmp_path / "out" / "small.png")
    assert made.shape == (8, 8)
    if made.min() > 0 and made.max() < 255:
        assert np.abs(made.reshape(4, 2, 4, 2).mean((1, 3)) - small).max() <= 1


def test_files_that_cannot_be_read_do_not_stop_the_others(bcm, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    grey = np.full((8, 8), 90, np.uint8)
    Image.fromarray(grey).save(folder / "a.png")
    Image.fromarray(grey.astype(np.uint16) * 256).save(folder / "deep.png")
    Image.fromarray(np.stack([grey] * 4, -1), "CMYK").save(folder / "ink.jpg")
    (folder / "torn.png").write_bytes((folder / "a.png").read_bytes()[:40])
    (folder / "notes.txt").write_text("no image")
    os.mkfifo(folder / "pipe.png")
    with (folder / "vast.png").open("wb") as vast:
        vast.truncate(Limits().file_bytes + 1)
    assert run(bcm, tmp_path / "out", "inpaint", "--input", folder) == 2
    said = capsys.readouterr()
    *faults, last = said.err.splitlines()
    assert [line.partition(f"left out: {folder}: ")[2].split()[0] for line in faults] == [
        "pipe.png",
        "vast.png:",
        "deep.png:",
        "torn.png:",
    ]
    assert last == "error: 4 files could not be used, as is said above; the others are done"
    assert scores(tmp_path / "out")["images"] == ["a", "ink"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png", "ink.png", "grid.png", "scores.json"}


def test_a_damaged_image_of_another_size_does_not_stop_the_others(bcm, tmp_path, capsys):
    """What it is a measurement of is not known; a clean one is cut, and that is told."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, size in (("a", (8, 8)), ("b", (9, 8))):
        Image.fromarray(np.full(size, 90, np.uint8)).save(folder / f"{name}.png")
    assert run(bcm, tmp_path / "damaged", "inpaint", "--input", folder, "--damaged") == 2
    said = capsys.readouterr()
    assert f"left out: {folder}: b.png: 8 x 9 pixels in the place of 8 x 8" in said.err.splitlines()[0]
    assert scores(tmp_path / "damaged")["images"] == ["a"] and "resized" not in said.out
    assert run(bcm, tmp_path / "clean", "inpaint", "--input", folder) == 0
    told = "1 of 2 images were cut to the central square and resized to 8 x 8"
    assert scores(tmp_path / "clean")["images"] == ["a", "b"] and told in capsys.readouterr().out


@pytest.mark.parametrize(
    ("task", "options", "used"),
    [
        ("upscale", (), {"factor": 2}),
        ("unblur", (), {"blur": 1.0}),
        ("unblur", ("--blur", 0.5), {"blur": 0.5}),
        ("jpeg", ("--quality", 30), {"quality": 30}),
        ("upscale", ("--factor", 4, "--method", "zigzag"), {"factor": 4, "small": 0.1}),
        ("jpeg", ("--small", 0.2, "--method", "zigzag"), {"quality": 10, "small": 0.2}),
        ("upscale", ("--bicubic",), {"factor": 2, "bicubic": True}),
        ("upscale", ("--noise", 0.1), {"factor": 2, "noise": 0.1}),
        ("inpaint", ("--mask", "MASK"), {"mask": "MASK"}),
    ],
)
def test_the_scores_say_what_was_used(bcm, tmp_path, task, options, used):
    mask = np.full((8, 8), 255, np.uint8)
    mask[0] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    here = {"MASK": str(tmp_path / "mask.png")}
    assert run(bcm, tmp_path / "out", task, "--seeds", "3,1", *(here.get(o, o) for o in options)) == 0
    nothing = dict.fromkeys(("mask", "factor", "bicubic", "blur", "quality", "small")) | {"noise": 0.0}
    expected = nothing | {name: here.get(value, value) for name, value in used.items()} | {"seeds": [3, 1]}
    found = scores(tmp_path / "out")
    assert {name: found[name] for name in expected} == expected


def test_one_image_with_several_seeds(bcm, tmp_path):
    Image.fromarray(np.full((8, 8), 90, np.uint8)).save(tmp_path / "photo.png")
    assert run(bcm, tmp_path / "out", "inpaint", "--input", tmp_path / "photo.png", "--seeds", "0,3") == 0
    assert (pixels(tmp_path / "out" / "photo_000000.png") != pixels(tmp_path / "out" / "photo_000003.png")).any()


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("colourise", (), "this model's images are grey themselves"),
        ("upscale", ("--factor", 3), "factor 3 does not divide images of 8 x 8 pixels"),
        ("jpeg", ("--quality", 96), "quality=96"),
        ("unblur", ("--blur", 0), "std=0.0"),
        ("inpaint", ("--level", 90), "level 90: it must lie above sigma_min"),
        ("unblur", ("--level", 5, "--method", "inversion"), "level 5: inversion goes up to sigma_max"),
        ("inpaint", ("--level", 5, "--method", "noise-space"), "level 5: noise-space goes up to sigma_max"),
        (
            "inpaint",
            ("--small", 3, "--method", "zigzag"),
            "small noise 3: it must lie above 0 and below the last level",
        ),
        ("inpaint", ("--method", "ddnm"), "method ddnm: a BCMModule has zero-shot, corrected, blind, inversion"),
        ("inpaint", ("--mask", "MASK"), "a mask of 4 x 4 pixels for images of 8 x 8"),
        ("inpaint", ("--mask", "EMPTY"), "empty mask, no pixel is dark"),
        ("jpeg", ("--mask", "MASK"), "--mask is of the task inpaint, and this is jpeg"),
        ("inpaint", ("--factor", 2), "--factor is of the task upscale, and this is inpaint"),
        ("upscale", ("--blur", 1), "--blur is of the task unblur, and this is upscale"),
        ("unblur", ("--quality", 20), "--quality is of the task jpeg, and this is unblur"),
        ("unblur", ("--bicubic",), "--bicubic is of the task upscale, and this is unblur"),
        ("jpeg", ("--noise", 0.1), "noise 0.1: it must be >= 0, and jpeg takes none beside it"),
        ("upscale", ("--noise", -1), "noise -1: it must be >= 0"),
        ("jpeg", ("--small", 0.2), "--small is of the methods inversion, zigzag, noise-space, and this is zero-shot"),
        ("denoise", ("--level", 1, "--steps", 3), "--steps 3: the method denoise takes one evaluation"),
        ("jpeg", ("--input", "MASK", "--data", "x.yaml"), "argument --data: not allowed with argument --input"),
        ("inpaint", ("--damaged",), "--damaged is of the images of --input"),
        ("inpaint", ("--input", "nowhere"), "there is no such file or folder"),
        (
            "inpaint",
            ("--input", "MASK", "--damaged"),
            "MASK.png: 4 x 4 pixels in the place of 8 x 8; resizing it would",
        ),
        ("upscale", ("--input", "EMPTY", "--damaged"), "EMPTY.png: 8 x 8 pixels in the place of 4 x 4; resizing it"),
    ],
)
def test_bad_input_is_refused_in_one_line(bcm, tmp_path, capsys, task, options, message):
    files = {"MASK": np.zeros((4, 4), np.uint8), "EMPTY": np.full((8, 8), 255, np.uint8)}
    for name, image in files.items():
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    assert run(bcm, tmp_path / "out", task, *(tmp_path / f"{o}.png" if o in files else o for o in options)) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_what_is_distilled_gives_no_mean(teacher, tmp_path_factory, tmp_path, capsys):
    """Its denoiser is a diffusion model's by its class, and its evaluation a sample."""
    run_of_it = fit(tmp_path_factory.mktemp("pd"), config("PDModule", 512, teacher=teacher))
    pd = str(run_of_it / "checkpoints" / "last.ckpt")
    assert run(pd, tmp_path, "inpaint") == 2
    assert "a PDModule cannot restore: which was distilled to generate from pure noise" in capsys.readouterr().err
    assert main(["edit", "--ckpt_path", pd, "--to", "1", "--out", str(tmp_path)]) == 2
    assert "a PDModule, whose model goes from noise to data only" in capsys.readouterr().err


def test_a_model_that_cannot_is_refused(tmp_path_factory, tmp_path, capsys, diffusion):
    flow = trained(tmp_path_factory.mktemp("flow"), "RectifiedFlowModule")
    assert run(flow, tmp_path, "inpaint") == 2
    assert "a RectifiedFlowModule cannot restore" in capsys.readouterr().err
    assert run(diffusion, tmp_path, "inpaint", "--method", "zigzag") == 2
    assert "method zigzag: a DiffusionModule has ddnm, ddrm" in capsys.readouterr().err


# --- models trained for one task --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def i2sb(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("i2sb"), "I2SBModule")


@pytest.fixture(scope="module")
def palette(tmp_path_factory):
    """Class-conditional, of the central box."""
    box = {"class_path": "tasks.masks.box_inpainting", "init_args": {"height": 8, "width": 8}}
    return trained(tmp_path_factory.mktemp("palette"), "PaletteModule", conditional=True, operator=box)


def test_a_model_trained_for_a_task_restores_it(i2sb, tmp_path):
    """By its own operator, named or not, at its own levels, from a small image too."""
    for name, options in (("default", ()), ("named", ("--factor", 2, "--method", "i2sb"))):
        assert run(i2sb, tmp_path / name, "upscale", "--seeds", "0-2", "--steps", 3, *options) == 0
    found = scores(tmp_path / "default")
    assert (found["method"], found["nfe"], found["operator"]) == ("i2sb", 3, "AveragePool")
    assert found["levels"][0] == pytest.approx(0.3755, abs=1e-4) and found == scores(tmp_path / "named") | {
        "seconds_per_image": found["seconds_per_image"]
    }
    Image.fromarray(np.full((4, 4), 99, np.uint8)).save(tmp_path / "small.png")
    assert run(i2sb, tmp_path / "out", "upscale", "--input", tmp_path / "small.png", "--damaged") == 0
    assert pixels(tmp_path / "out" / "small.png").shape == (8, 8) and scores(tmp_path / "out")["nfe"] == 20


def test_palette_restores(palette, tmp_path):
    assert run(palette, tmp_path, "inpaint", "--seeds", "0-2", "--steps", 2) == 0
    found = scores(tmp_path)
    assert (found["method"], found["nfe"], found["levels"]) == ("palette", 2, [80.0, 0.002])


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (
            "inpaint",
            (),
            "task inpaint: this I2SBModule was trained for AveragePool(sigma_y=0.0, p=2) (task upscale",
        ),
        ("upscale", ("--factor", 4), "task upscale: this I2SBModule was trained for AveragePool(sigma_y=0.0, p=2)"),
        ("upscale", ("--level", 1), "level 1: I2SBModule starts where its training did"),
        ("upscale", ("--method", "ddnm"), "method ddnm: a I2SBModule has i2sb"),
        ("upscale", ("--steps", 1000), "steps=1000: 1 to 999 evaluations"),
        ("denoise", ("--level", 1), "task denoise: this I2SBModule was trained for"),
        ("strokes", (), "task strokes: this I2SBModule was trained for"),
    ],
)
def test_another_task_is_refused_in_one_line(i2sb, tmp_path, capsys, task, options, message):
    assert run(i2sb, tmp_path / "out", task, *options) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not (tmp_path / "out").exists()


# --- noise and strokes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "method"), [("bcm", "denoise"), ("diffusion", "denoise"), ("diffusion", "ddnm")])
def test_noise_is_taken_away(model, method, tmp_path, request):
    options = ("--seeds", "0-4", "--level", 0.5, "--steps", 1 if method == "denoise" else 3, "--method", method)
    assert run(request.getfixturevalue(model), tmp_path, "denoise", *options) == 0
    found = scores(tmp_path)
    assert found["nfe"] == (1 if method == "denoise" else 3) and found["levels"][0] == (
        0.5 if method == "denoise" else 80.0
    )
    residual = found["scores"]["clean"]["residual"]
    assert 0.7 < np.mean(residual) < 1.3 and len(set(residual)) == 5  # every image has noise of its own
    assert np.mean(found["scores"]["given"]["residual"]) < 0.5  # but for what is cut off at black and white


def test_one_evaluation_at_the_level_of_the_noise(bcm, tmp_path):
    """It is `tasks.few_step.denoise_at`, and a file holds its noise already."""
    from diffusion.pixels import from_uint8, to_uint8
    from lightning_modules import load_module
    from tasks.few_step import denoise_at

    noisy = torch.randint(0, 256, (1, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    Image.fromarray(noisy[0, 0].numpy()).save(tmp_path / "noisy.png")
    options = ("--input", tmp_path / "noisy.png", "--damaged", "--level", 0.4)
    assert run(bcm, tmp_path / "out", "denoise", *options) == 0
    with torch.no_grad():
        expected = to_uint8(denoise_at(load_module(bcm).ema_denoiser, from_uint8(noisy), 0.4))
    assert (pixels(tmp_path / "out" / "noisy.png") == expected[0, 0].numpy()).all()


@pytest.mark.parametrize(
    ("model", "steps", "levels"),
    [("bcm", (), (0.168, 0.07)), ("diffusion", ("--steps", 3), (0.168, 0.0259, 0.002)), ("ufogen", (), None)],
)
def test_strokes(model, steps, levels, tmp_path, request):
    assert run(request.getfixturevalue(model), tmp_path / "a", "strokes", "--seeds", "0-2", *steps) == 0
    found = scores(tmp_path / "a")
    assert found["method"] == {"bcm": "strokes", "diffusion": "sdedit", "ufogen": "strokes"}[model]
    assert levels is None or found["levels"] == pytest.approx(levels, rel=0.05)
    assert found["nfe"] == len(found["levels"]) and max(found["scores"]["given"]["psnr"]) < 60
    Image.fromarray(np.full((30, 30, 3), 200, np.uint8)).save(tmp_path / "painting.png")
    options = ("--input", tmp_path / "painting.png", "--damaged", "--level", 0.3, "--class", 3)
    options = options if model == "diffusion" else options[:-2]
    assert run(request.getfixturevalue(model), tmp_path / "b", "strokes", *options) == 0
    assert pixels(tmp_path / "b" / "painting.png").shape == (8, 8)


@pytest.mark.parametrize(
    ("model", "task", "options", "message"),
    [
        ("bcm", "denoise", (), "task denoise needs a level"),
        ("bcm", "denoise", ("--level", 90), "level 90: this model knows noise from 0.002 to 80"),
        ("bcm", "denoise", ("--level", 1, "--method", "zigzag"), "a BCMModule has denoise for task denoise"),
        ("ufogen", "denoise", ("--level", 1.1), "level 1.1: this model was trained at noise of"),
        ("bcm", "strokes", ("--level", 90), "level 90: it must lie above"),
        ("bcm", "strokes", ("--method", "zero-shot"), "a BCMModule has strokes for task strokes"),
        ("bcm", "inpaint", ("--lpips",), "--lpips: images of 1 x 8 x 8: LPIPS is reported of square colour images"),
        ("bcm", "inpaint", ("--lpips", "--input", "x", "--damaged"), "--lpips compares with clean images"),
    ],
)
def test_bad_noise_strokes_and_scores_are_refused(model, task, options, message, tmp_path, capsys, request):
    assert run(request.getfixturevalue(model), tmp_path / "out", task, *options) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_noise_and_the_filter_of_what_was_given(diffusion, tmp_path):
    """Bicubic and noisy measurements are made, shown and met as such: the residual is that of the noise."""
    paths = {"mean": (), "bicubic": ("--bicubic",), "noisy": ("--noise", 0.2)}
    for name, options in paths.items():
        assert run(diffusion, tmp_path / name, "upscale", "--seeds", "0-3", "--steps", 3, *options) == 0
    found = {name: scores(tmp_path / name)["scores"] for name in paths}
    assert found["mean"]["given"]["psnr"] != found["bicubic"]["given"]["psnr"]
    given = (found[name]["given"]["psnr"] for name in ("noisy", "mean"))
    assert all(noisy < mean for noisy, mean in zip(*given, strict=True))
    assert "residual" in found["noisy"]["clean"] and "consistency" in found["bicubic"]["clean"]
    assert np.mean(found["noisy"]["clean"]["residual"]) == pytest.approx(1, abs=0.4)  # 64 numbers of the noise


def test_a_damaged_file_is_of_the_size_that_a_filter_leaves(bcm, tmp_path, capsys):
    Image.fromarray(np.full((4, 4), 90, np.uint8)).save(tmp_path / "small.png")
    Image.fromarray(np.full((8, 8), 90, np.uint8)).save(tmp_path / "large.png")
    for name, code in (("small", 0), ("large", 2)):
        options = ("--input", tmp_path / f"{name}.png", "--bicubic", "--damaged")
        assert run(bcm, tmp_path / name, "upscale", *options) == code
    assert "8 x 8" in capsys.readouterr().err and pixels(tmp_path / "small" / "small.png").shape == (8, 8)
