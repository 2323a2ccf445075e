"""The demo without its page: what each model makes of a drawing, the canvas's pixels, and what is refused."""

import importlib.util
import io
from base64 import b64decode
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli_image_to_image import trained

from cli import demo as command
from cli.demo_canvas import canvas_value, read_canvas
from cli.demo_models import Model, Request
from cli.errors import UsageError
from cli.restore_levels import Way
from cli.restore_tasks import Damage
from datamodules import DigitsDataModule
from diffusion.pixels import from_uint8, to_uint8
from diffusion.rng import ImageNoise
from main import main

IMAGES = DigitsDataModule().uint8_images("test")[0]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    kinds = {"bcm": "BCMModule", "edm": "DiffusionModule", "ct": "CTModule"}
    return {n: trained(tmp_path_factory.mktemp(n), kind, conditional=n != "ct") for n, kind in kinds.items()}


@pytest.fixture(scope="module")
def models(paths):
    return {name: Model(path, torch.device("cpu")) for name, path in paths.items()}


def asked(task, drawn=((2, 3),), **options):
    """Of the first test image, some pixels of which are drawn on in white."""
    value = canvas_value(IMAGES[0], task, {str(8 * row + column): "#ffffff" for row, column in drawn})
    drawing = read_canvas(value, IMAGES[0])
    return Request(task, IMAGES[0], drawing.drawn, drawing.painted, label=5, damage=Damage(task), **options)


def test_what_is_drawn_is_of_the_images_own_pixels():
    image = torch.randint(0, 256, (3, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    value = canvas_value(image, "strokes", {"0": "#ff0000", "23": "#0080ff"})
    shown = Image.open(io.BytesIO(b64decode(value["image"].partition(",")[2])))
    assert (np.asarray(shown) == image.movedim(0, -1).numpy()).all() and shown.size == (6, 4)
    drawn, painted = read_canvas(value, image)
    assert drawn.nonzero().tolist() == [[0, 0], [3, 5]]
    assert painted[:, 0, 0].tolist() == [255, 0, 0] and painted[:, 3, 5].tolist() == [0, 128, 255]
    assert (painted[:, ~drawn] == image[:, ~drawn]).all()
    grey = read_canvas(value, image[:1]).painted
    assert grey[0, 0, 0] == 76 and grey[0, 3, 5] == 104  # ITU-R 601, as an image that is uploaded
    with pytest.raises(ValueError, match="pixel 24 of an image of 4 x 6"):
        read_canvas({**value, "drawn": {"24": "#ffffff"}}, image)


@pytest.mark.parametrize("name", ["bcm", "ct", "edm"])
def test_an_inpainting_keeps_the_rest(models, name):
    answer = models[name].run(asked("inpaint", way=Way(steps=2)))
    hidden = torch.zeros(8, 8, dtype=torch.bool)
    hidden[2, 3] = True
    assert (answer.images[0][:, ~hidden] == IMAGES[0][:, ~hidden]).all()
    assert answer.given[0, 2, 3] == 128 and answer.nfe == 2 and answer.milliseconds > 0 and answer.psnr < 60
    assert (answer.noise is not None) == (name == "bcm")


def test_the_noise_is_the_inversion_of_what_was_given(models):
    model = models["bcm"]
    answer, denoise, label = model.run(asked("upscale", seed=4)), model.module.ema_denoiser, torch.tensor([5])
    x0 = from_uint8(answer.given[None]) + 0.07 * ImageNoise([4], (1, 8, 8))()
    with torch.no_grad():
        noise = denoise(x0, 0.07, label, target=80.0)
    assert (answer.noise.int() - to_uint8(noise / 240)[0].int()).abs().max() <= 1
    assert answer.noise_ratio == pytest.approx(float(noise.std(correction=0)) / 80, rel=1e-5)


@pytest.mark.parametrize("task", ["upscale", "unblur", "jpeg", "strokes", "edit", "interpolate"])
@pytest.mark.parametrize("name", ["bcm", "edm"])
def test_every_task_depends_on_its_seed_alone(models, name, task):
    request = asked(task, way=Way(steps=2), second=IMAGES[1], target=3, frames=3, seed=1)
    one, two = (models[name].run(request) for _ in range(2))
    other = models[name].run(replace(request, seed=2))
    inverted_exactly = name == "edm" and task in ("edit", "interpolate")  # by the ODE, without a draw of noise
    assert torch.equal(one.images, two.images) and torch.equal(one.images, other.images) == inverted_exactly
    assert len(one.images) == (3 if task == "interpolate" else 1)
    assert one.images.dtype == torch.uint8 and one.images.shape[1:] == (1, 8, 8)
    if task == "strokes":
        assert torch.equal(one.given, request.painted) and one.given[0, 2, 3] == 255
    if task == "edit" and name == "bcm":
        assert one.nfe == 2 and one.how == "inverted as class 5, generated as 3"


def test_what_a_model_cannot_is_told(models):
    assert models["ct"].tasks == ("inpaint", "upscale", "unblur", "jpeg", "strokes")
    for name, request, message in (
        ("ct", asked("edit", target=1), "a CTModule cannot do this"),
        ("bcm", asked("inpaint", drawn=()), "draw over what is to be made anew"),
        ("bcm", asked("colourise"), "a BCMModule cannot do this"),
        ("bcm", asked("edit"), "choose the class to make"),
        ("bcm", asked("edit", target=10), "has the classes 0 to 9"),
        ("bcm", asked("interpolate"), "choose a second image"),
        ("bcm", asked("inpaint", way=Way("ddnm")), "method ddnm: a BCMModule has zero-shot"),
    ):
        with pytest.raises(UsageError, match=message):
            models[name].run(request)


def test_bad_use_is_refused_in_one_line(paths, flow, monkeypatch, capsys):
    monkeypatch.setattr(command, "check_gradio", lambda: None)
    for args, message in (
        (["--ckpt_path", paths["ct"], flow], "a RectifiedFlowModule, which can do none of the demo's tasks"),
        (["--ckpt_path", "nowhere.ckpt"], "nowhere.ckpt"),
        (["--ckpt_path", paths["ct"], "--port", "0"], "'0' is not a whole number"),
    ):
        assert main(["demo", *args]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1


def test_without_gradio_a_command_is_named(paths, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "gradio" else find(name, *a))
    assert main(["demo", "--ckpt_path", paths["ct"]]) == 2
    assert capsys.readouterr().err == 'error: the demo needs Gradio: pip install -e ".[demo]"\n'
