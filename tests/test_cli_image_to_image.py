"""`image-to-image`: files, levels, seeds, classes, and what is refused."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import config, fit

from cli.errors import UsageError
from cli.image_to_image import levels_down
from datamodules import DigitsDataModule
from diffusion.grids import CosineGrid, KarrasGrid
from diffusion.ladder import Ladder
from diffusion.samplers import strength_level
from lightning_modules import load_module
from lightning_modules.checkpoint import read_checkpoint
from main import main


def trained(folder, module, conditional=False, **options):
    """A checkpoint of a short run, its weights then made larger: many start at zero, and so would the pictures."""
    content = config(module, 128, **options)
    content["data"]["init_args"]["conditional"] = conditional
    last = fit(folder, content) / "checkpoints" / "last.ckpt"
    checkpoint, generator = read_checkpoint(last), torch.Generator().manual_seed(1)
    for weights in checkpoint["state_dict"].values():
        if weights.ndim > 1:
            weights += 0.1 * torch.randn(weights.shape, generator=generator)
    torch.save(checkpoint, last.with_name("loud.ckpt"))
    return str(last.with_name("loud.ckpt"))


@pytest.fixture(scope="module")
def bcm(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("bcm"), "BCMModule")


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    """Class-conditional."""
    return trained(tmp_path_factory.mktemp("ct"), "CTModule", conditional=True)


@pytest.fixture(scope="module")
def ufogen(tmp_path_factory):
    """Its levels are four rungs of the cosine schedule."""
    return trained(tmp_path_factory.mktemp("ufogen"), "UFOGenModule")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three images of other sizes, colours and formats, one in a sub-folder, and a text."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(pixels[:16, :16]).save(folder / "b.jpg")
    Image.fromarray(pixels[:8, :8, 0]).save(folder / "more" / "c.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def run(ckpt_path, out, *options):
    return main(["image-to-image", "--ckpt_path", ckpt_path, "--out", str(out), *map(str, options)])


def error_of(capsys, *args):
    """The one line that main prints, with exit code 2."""
    capsys.readouterr()
    assert run(*args) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1 and err[0].startswith("error: "), err
    return err[0]


def pixels(path):
    return np.asarray(Image.open(path), int)


def test_test_images(bcm, tmp_path, capsys):
    assert run(bcm, tmp_path / "a", "--strength", 0.5, "--seeds", "0-17", "--steps", 2) == 0
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [*(f"{i:06d}.png" for i in range(18)), "grid.png"]
    assert pixels(tmp_path / "a" / "000003.png").shape == (8, 8)
    grid = Image.open(tmp_path / "a" / "grid.png")  # two times three rows of 16
    assert grid.width / 16 == pytest.approx(42, abs=1) and grid.height / 6 == pytest.approx(42, abs=1)
    first, second = CosineGrid().levels(3, 0.002, strength_level(0.5, 0.002, 80.0))[:2]
    out = capsys.readouterr().out.splitlines()[-1]
    assert out.startswith(f"18 images in {tmp_path / 'a'}, made from the levels {first:.4g} > {second:.4g}: 2 network")
    assert "2 network evaluations each (counted)" in out and "images/s on cpu" in out


def test_a_result_depends_on_its_seed_alone(ufogen, tmp_path):
    options = ("--level", 1.0, "--steps", 2)
    for out, more in {"a": (), "b": (), "one": ("--batch_size", 1), "five": ("--batch_size", 5)}.items():
        assert run(ufogen, tmp_path / out, *options, *more, "--seeds", "0-6") == 0
    assert run(ufogen, tmp_path / "two", *options, "--seeds", "4,2") == 0
    for seed in range(7):
        first = tmp_path / "a" / f"{seed:06d}.png"
        assert first.read_bytes() == (tmp_path / "b" / first.name).read_bytes()
        for other in ("one", "five", "two"):
            if (path := tmp_path / other / first.name).exists():  # to the rounding of matrix products
                assert abs(pixels(first) - pixels(path)).max() <= 1
    assert len(list((tmp_path / "two").iterdir())) == 3


@pytest.mark.parametrize("model", ["bcm", "ufogen"])
def test_strength_1_is_sampling(model, tmp_path, request):
    """The noise is that of `sample`, and of the input no more is left than a share 1/sigma_max."""
    ckpt_path = request.getfixturevalue(model)
    assert run(ckpt_path, tmp_path / "edits", "--strength", 1, "--seeds", "0-7") == 0
    assert main(["sample", "--ckpt_path", ckpt_path, "--seeds", "0-7", "--out", str(tmp_path / "samples")]) == 0
    for seed in range(8):
        edit, sample = (pixels(tmp_path / folder / f"{seed:06d}.png") for folder in ("edits", "samples"))
        assert abs(edit - sample).max() <= 3 and sample.std() > 10


def test_a_little_noise_leaves_the_input(bcm, tmp_path):
    assert run(bcm, tmp_path, "--level", 0.0021, "--seeds", "5-8") == 0
    for seed in range(5, 9):
        image = DigitsDataModule().uint8_images("test")[0][seed, 0].numpy()
        assert abs(pixels(tmp_path / f"{seed:06d}.png") - image).max() <= 2


def test_a_folder(bcm, photos, tmp_path, capsys):
    """Cut and resized as the images of a run are."""
    from datamodules.images import ImageDataModule

    assert run(bcm, tmp_path, "--input", photos, "--level", 0.0021) == 0
    assert "3 images in" in capsys.readouterr().out
    names = ["a.png", "b.png", "grid.png", "more/c.png"]
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png")) == names
    images = ImageDataModule(str(photos), 8, channels=1).uint8_images("train")[0]
    for name, image in zip(("a", "b", "more/c"), images, strict=True):
        assert abs(pixels(tmp_path / f"{name}.png") - image[0].numpy()).max() <= 2


def test_a_file_that_cannot_be_read_changes_no_other(bcm, photos, tmp_path, capsys):
    """Each keeps its own seed."""
    torn = tmp_path / "torn"
    shutil.copytree(photos, torn)
    (torn / "a.png").write_bytes((photos / "a.png").read_bytes()[:40])
    options = ("--strength", 0.9, "--seeds", "4-6")
    assert run(bcm, tmp_path / "whole", "--input", photos, *options) == 0
    told = "2 of 3 images were cut to the central square and resized to 8 x 8"
    assert told in (said := capsys.readouterr()).out and not said.err
    assert run(bcm, tmp_path / "rest", "--input", torn, *options) == 2
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith(f"left out: {torn}: a.png: no readable image")
    assert last == "error: 1 file could not be used, as is said above; the others are done"
    assert not (tmp_path / "rest" / "a.png").exists()
    for name in ("b.png", "more/c.png"):
        assert abs(pixels(tmp_path / "whole" / name) - pixels(tmp_path / "rest" / name)).max() <= 1


def test_variations_of_one_image(bcm, photos, tmp_path):
    assert run(bcm, tmp_path, "--input", photos / "b.jpg", "--strength", 0.9, "--seeds", "0-2") == 0
    names = ["b_000000.png", "b_000001.png", "b_000002.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [*names, "grid.png"]
    assert (pixels(tmp_path / names[0]) != pixels(tmp_path / names[1])).any()
    assert run(bcm, tmp_path, "--input", photos / "b.jpg", "--strength", 0.9) == 0
    assert abs(pixels(tmp_path / "b.png") - pixels(tmp_path / names[0])).max() <= 1


def test_classes(ct, photos, tmp_path):
    """A test image's own class, or the one that is asked for."""
    _, labels = DigitsDataModule().uint8_images("test")
    own = int(labels[0])
    for out, options in {"own": (), "same": ("--class", own), "other": ("--class", (own + 1) % 10)}.items():
        data = () if out == "own" else ("--data", "configs/data/digits.yaml")
        assert run(ct, tmp_path / out, "--strength", 0.8, "--seeds", "0", *data, *options) == 0
    own, same, other = (pixels(tmp_path / out / "000000.png") for out in ("own", "same", "other"))
    assert (own == same).all() and (own != other).any()
    assert run(ct, tmp_path / "photos", "--input", photos, "--strength", 0.8, "--class", 3) == 0


@pytest.mark.parametrize("module", ["SIDDMModule", "DDGANModule"])
def test_other_generators(module, tmp_path, capsys):
    """DDGAN's latents are drawn."""
    assert run(trained(tmp_path, module), tmp_path / "out", "--strength", 0.75, "--seeds", "0-3", "--steps", 3) == 0
    assert "3 network evaluations each (counted)" in capsys.readouterr().out


def test_a_ladder_is_climbed_by_its_rungs(ufogen, tmp_path, capsys):
    rungs = load_module(ufogen).ladder.levels(0.002, 80.0).tolist()
    assert run(ufogen, tmp_path, "--strength", 0.55, "--seeds", "0") == 0
    wanted = strength_level(0.55, 0.002, 80.0)
    expected = f"made from the level {rungs[2]:.4g} (the rung nearest to {wanted:.4g}): 1 network"
    assert expected in capsys.readouterr().out
    assert run(ufogen, tmp_path, "--strength", 0.5, "--seeds", "0", "--steps", 2) == 0
    assert f"made from the levels {rungs[2]:.4g} > {rungs[1]:.4g}: 2 network" in capsys.readouterr().out
    refused = error_of(capsys, ufogen, tmp_path, "--strength", 0.5, "--steps", 3)
    assert f"--steps 3: this model was trained at fewer levels from there down: {rungs[2]:.4g} and" in refused


def stand_in(ladder=None):
    return SimpleNamespace(denoiser=SimpleNamespace(sigma_min=0.002, sigma_max=80.0), ladder=ladder)


@pytest.mark.parametrize("grid", [CosineGrid(), KarrasGrid()])
def test_levels_of_a_ladder(grid):
    rungs = Ladder(grid, 5).levels(0.002, 80.0).tolist()
    module = stand_in(Ladder(grid, 5))
    assert levels_down(module, 80.0, 5) == tuple(rungs[:0:-1])
    for place in range(1, 6):
        assert levels_down(module, rungs[place] * 1.001, 1) == (rungs[place],)
        assert levels_down(module, rungs[place], place) == tuple(rungs[place:0:-1])
        with pytest.raises(UsageError, match="trained at fewer levels"):
            levels_down(module, rungs[place], place + 1)
    assert levels_down(module, 0.0021, 1) == (rungs[1],)  # the lowest is no level to generate from


@pytest.mark.parametrize("module", [stand_in(), stand_in(Ladder(substeps=250))])
def test_levels_without_rungs(module):
    """Any level: equally far apart in the cosine schedule's time."""
    levels = levels_down(module, 3.0, 3)
    assert levels[0] == 3.0 and levels[-1] > 0.002
    times = CosineGrid()(torch.tensor([*levels, 0.002], dtype=torch.float64))
    torch.testing.assert_close(times.diff(), (times.diff()).mean().expand(3), rtol=1e-6, atol=0)


WRONG = [
    (("--strength", "0"), "argument --strength: '0' is not a number above 0 and at most 1"),
    (("--strength", "1.5"), "argument --strength: '1.5'"),
    (("--strength", "nan"), "argument --strength: 'nan'"),
    (("--strength", "half"), "argument --strength: 'half'"),
    (("--level", "high"), "argument --level: invalid float value: 'high'"),
    (("--level", "80.5"), "--level 80.5: it must lie above this model's sigma_min = 0.002, and at most at its"),
    (("--level", "0.002"), "--level 0.002: it must lie above"),
    (("--level", "nan"), "--level nan"),
    ((), "one of the arguments --strength --level is required"),
    (("--strength", "1", "--level", "1"), "argument --level: not allowed with argument --strength"),
    (("--strength", "1", "--steps", "0"), "whole number of at least 1"),
    (("--strength", "1", "--stepz", "2"), "no option --stepz; did you mean --steps?"),
    (("--strength", "1", "--seeds", "360"), "--seeds 360: the test split has the images 0 to 359"),
    (("--strength", "1", "--class", "1"), "--class 1: this model is unconditional"),
    (("--strength", "1", "--input", "nowhere.png"), "--input nowhere.png: there is no such file or folder"),
    (("--strength", "1", "--input", "PHOTOS/notes.txt"), "notes.txt: no readable image (none of PNG, JPEG"),
    (("--strength", "1", "--input", "PHOTOS", "--seeds", "0-3"), "--seeds: 4 of them for 3 images"),
    (
        ("--strength", "1", "--input", "PHOTOS", "--data", "x.yaml"),
        "argument --data: not allowed with argument --input",
    ),
    (("--strength", "1", "--input", "PHOTOS", "--out", "PHOTOS"), "a.png, one of the inputs, would be overwritten"),
]


@pytest.mark.parametrize(("options", "expected"), WRONG, ids=[" ".join(options) or "nothing" for options, _ in WRONG])
def test_wrong_use(options, expected, bcm, photos, tmp_path, capsys):
    options = [option.replace("PHOTOS", str(photos)) for option in options]
    assert expected in error_of(capsys, bcm, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_wrong_inputs(ct, bcm, photos, tmp_path, capsys):
    assert "this model has the classes 0 to 9: give one by --class" in error_of(
        capsys, ct, tmp_path, "--strength", 0.5, "--input", photos
    )
    assert "--class 10: this model has the classes 0 to 9" in error_of(
        capsys, ct, tmp_path, "--strength", 0.5, "--class", 10
    )
    (tmp_path / "empty").mkdir()
    assert "empty: no images" in error_of(capsys, bcm, tmp_path, "--strength", 0.5, "--input", tmp_path / "empty")
    shutil.copy(photos / "a.png", tmp_path / "empty" / "b.png")
    shutil.copy(photos / "b.jpg", tmp_path / "empty" / "b.jpg")
    double = error_of(capsys, bcm, tmp_path, "--strength", 0.5, "--input", tmp_path / "empty")
    assert "more than one picture would be written to b.png" in double
    (tmp_path / "data.yaml").write_text(f"class_path: datamodules.ImageDataModule\ninit_args: {{path: {photos}, "
                                        "resolution: 16}")  # fmt: skip
    shape = error_of(capsys, bcm, tmp_path, "--strength", 0.5, "--data", tmp_path / "data.yaml", "--seeds", "0")
    assert "the test images are 3 x 16 x 16, and the model's are 1 x 8 x 8" in shape


def test_refused_models(tmp_path, capsys):
    teacher = trained(tmp_path, "DiffusionModule")
    refused = error_of(capsys, teacher, tmp_path / "out", "--strength", 0.5)
    assert "holds a DiffusionModule, whose one evaluation is a mean of many images" in refused
    assert "needs a few-step generator such as a CTModule" in refused
    (tmp_path / "kd").mkdir()
    student = trained(tmp_path / "kd", "KDModule", teacher=teacher)
    refused = error_of(capsys, student, tmp_path / "out", "--strength", 0.5)
    assert "holds a KDModule, which was distilled to generate from pure noise alone" in refused
    (tmp_path / "flow").mkdir()
    refused = error_of(capsys, trained(tmp_path / "flow", "RectifiedFlowModule"), tmp_path / "out", "--level", 1)
    assert "holds a RectifiedFlowModule" in refused and not (tmp_path / "out").exists()
    (tmp_path / "plane").mkdir()
    content = config("CTModule", 128)
    moons = {"distribution": {"class_path": "datamodules.TwoMoons"}, "batch_size": 64}
    content["data"] = {"class_path": "datamodules.ToyDataModule", "init_args": moons}
    planar = str(fit(tmp_path / "plane", content) / "checkpoints" / "last.ckpt")
    assert "points in the plane" in error_of(capsys, planar, tmp_path / "out", "--strength", 0.5)
