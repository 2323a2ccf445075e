"""The benchmark of restoration: its rows, its rows beside, and what a method is not made for."""

import json
import statistics

import pytest
import torch
from PIL import Image
from test_cli_image_to_image import trained

from benchmarks import restoration, restoration_table
from cli.restore_levels import Way
from cli.restore_run import observed
from datamodules import DigitsDataModule
from diffusion.pixels import to_uint8
from evaluation.restoration import psnr
from lightning_modules.checkpoint import load_module


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    folder = tmp_path_factory.mktemp("restoration")
    modules = {"BCM": "BCMModule", "UFOGen": "UFOGenModule", "EDM": "DiffusionModule"}
    paths = [f"{name}={trained(tmp_path_factory.mktemp(name), module)}" for name, module in modules.items()]
    blur = {"height": 8, "width": 8, "std": 1.0, "threshold": 0.05}
    for i, operator in enumerate((None, {"class_path": "tasks.separable.gaussian_blur", "init_args": blur})):
        options = {} if operator is None else {"operator": operator}
        paths.append(f"I2SB={trained(tmp_path_factory.mktemp(f'I2SB{i}'), 'I2SBModule', **options)}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(restoration, "STEPS", {"few": (1, 2), "many": (2, 3), "paired": (1, 3)})
        patch.setattr(restoration, "LEVELS", {"zero-shot": (1.0, 2.0)})
        patch.setattr(restoration, "SMALL", (0.05, 0.2, 90.0))
        options = ["--tasks", "inpaint", "unblur", "--count", "6", "--seeds", "0", "1"]
        files = ["--json", str(folder / "x.json"), "--picture", str(folder / "x.png")]
        restoration.main(["--checkpoints", *paths, *options, *files])
    return {**json.loads((folder / "x.json").read_text()), "picture": Image.open(folder / "x.png").size}


def test_every_method_of_every_model(content):
    found = {(r["task"], r["model"], r["method"], r["steps"]) for r in content["rows"]}
    for task in ("inpaint", "unblur"):
        for method in ("zero-shot", "corrected", "blind", "inversion", "zigzag", "noise-space"):
            assert {(task, "BCM", method, steps) for steps in (1, 2)} <= found
        assert (task, "UFOGen", "zero-shot", 2) in found and (task, "UFOGen", "zigzag", 1) not in found
        for method in ("ddnm", "pigdm", "pigdm-adaptive", "dps"):
            assert {(task, "EDM", method, steps) for steps in (2, 3)} <= found
    assert ("inpaint", "EDM", "ddrm", 2) in found and ("inpaint", "EDM", "repaint", 2) in found
    assert ("unblur", "EDM", "ddrm", 2) in found
    of_pairs = {(r["task"], r["method"], r["steps"]) for r in content["rows"] if r["model"] == "I2SB" and r["nfe"]}
    assert of_pairs == {("unblur", "i2sb", 1), ("unblur", "i2sb", 3)}  # one of two was trained for neither task
    assert all(r["milliseconds"] > 0 for r in content["rows"] if r["nfe"])


def test_rows_beside(content):
    rows = [r for r in content["rows"] if r["task"] == "inpaint" and r["model"] == "BCM"]
    clean = next(r for r in rows if r["method"] == "clean")
    given = next(r for r in rows if r["method"] == "given")
    assert clean["scores"]["psnr"] == 60 > given["scores"]["psnr"] and given["scores"]["consistency"] == 60
    controls = [r for r in rows if r["method"] == "control"]
    assert len(controls) == 3 * 2 and {r["nfe"] for r in controls} == {1} and {r["seed"] for r in controls} == {0, 1}
    inverting = [r for r in rows if r["method"] in ("inversion", "zigzag", "noise-space") and r["steps"] == 1]
    assert [r["level"] for r in controls] == [r["small"] for r in controls] == [r["small"] for r in inverting]


def test_seeds_of_the_noise_differ(content):
    found = [
        r["scores"]["psnr"] for r in content["rows"] if (r["task"], r["method"], r["steps"]) == ("inpaint", "zigzag", 2)
    ]
    assert len(found) == 2 and found[0] != found[1] and statistics.fmean(found) > 5


def test_the_picture_has_a_row_of_the_six_images_for_each(content):
    width, height = content["picture"]
    names = {
        (r["model"] if r["nfe"] else "", r["method"], r["steps"]) for r in content["rows"] if r["task"] == "inpaint"
    }
    rows = [name for name in names if name[1] != "control"]
    assert height / len(rows) == pytest.approx(width / 6, rel=0.05)


def test_some_methods_alone(tmp_path, tmp_path_factory):
    path, written = trained(tmp_path_factory.mktemp("EDM"), "DiffusionModule"), tmp_path / "x.json"
    few = ["--tasks", "inpaint", "--count", "6", "--seeds", "0", "--many", "2", "--methods", "ddnm"]
    restoration.main(["--checkpoints", f"EDM={path}", *few, "--json", str(written)])
    assert {r["method"] for r in json.loads(written.read_text())["rows"]} == {"given", "clean", "ddnm"}


def test_the_small_noise_is_the_one_that_restores_other_images_best(tmp_path_factory):
    """Levels that no method can have are left out."""
    module = load_module(trained(tmp_path_factory.mktemp("best"), "BCMModule"))
    images, _ = DigitsDataModule().uint8_images("test")
    bench = restoration.Bench("BCM", module, "unblur", images, None, None, 6)
    trial = bench.trial(first=6)
    found = {
        small: float(
            psnr(bench.restorer.restore(trial.problem, Way("inversion", 1, small=small)).images, trial.truth).mean()
        )
        for small in restoration.SMALL
    }
    assert len(set(found.values())) > 1
    assert bench.best_way("inversion", 1) == Way("inversion", 1, small=max(found, key=lambda small: found[small]))


@pytest.mark.parametrize("task", sorted(restoration.TASKS))
def test_what_was_done_to_images(task):
    """Every task's damage takes something away, and differs from the others."""
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    given = {}
    for name, damage in restoration.TASKS.items():
        operator = damage(8, 8).operator((3, 8, 8))
        given[name] = operator.shown(observed(operator, to_uint8(x), [0, 1]))
    mine = given.pop(task)
    assert mine.shape[-2:] == (8, 8) and (mine - x).abs().max() > 0.1
    assert all(not torch.equal(mine, other) for other in given.values())


def test_the_table_of_several_files(tmp_path, capsys):
    """Means over the seeds; a row that two files have is the first one's; what stands beside has no model."""

    def row(method, steps, seed, psnr, nfe=1.0, task="inpaint", **other):
        scores = {"consistency": 60.0, "psnr": psnr, "ssim": 0.5, "fd_digits": 1.0}
        place = {"task": task, "model": "CT", "method": method, "steps": steps, "level": 2.0, "seed": seed, "nfe": nfe}
        return place | {"milliseconds": 3.0 if nfe else None, "scores": scores, "small": None} | other

    first = [row("given", None, 0, 10.0, 0.0, level=None), *(row("zero-shot", 1, i, 20.0 + i) for i in range(3))]
    second = [row("given", None, 0, 99.0, 0.0, level=None), row("zero-shot", 1, 0, 99.0), row("zero-shot", 2, 0, 30.0)]
    paths = [tmp_path / "1.json", tmp_path / "2.json"]
    for path, rows in zip(paths, (first, [*second, row("ddnm", 4, 0, 1.0, task="unblur")]), strict=True):
        path.write_text(json.dumps({"rows": rows}))
    picture = tmp_path / "figure.png"
    restoration_table.main([*map(str, paths), "--leave-out", "fd_digits", "--figure", str(picture)])
    assert Image.open(picture).size[0] > 1.5 * Image.open(picture).size[1]  # two panels
    assert capsys.readouterr().out.splitlines() == [
        "### inpaint",
        "",
        "| model | method | levels | from | small | NFE | ms | PSNR | SSIM | known |",
        "|---|---|---|---|---|---|---|---|---|---|",
        "|  | given |  |  |  | 0 |  | 10.0 | 0.500 | 60.0 |",
        "| CT | zero-shot | 1 | 2 |  | 1 | 3 | 21.0 ± 1 | 0.500 | 60.0 |",
        "| CT | zero-shot | 2 | 2 |  | 1 | 3 | 30.0 | 0.500 | 60.0 |",
        "",
        "### unblur",
        "",
        "| model | method | levels | from | small | NFE | ms | PSNR | SSIM | known |",
        "|---|---|---|---|---|---|---|---|---|---|",
        "| CT | ddnm | 4 | 2 |  | 1 | 3 | 1.0 | 0.500 | 60.0 |",
        "",
    ]


def test_controls_of_another_small_noise_have_a_row_of_their_own():
    scores = {"psnr": 20.0}
    rows = [
        restoration.Row("inpaint", "BCM", "control", 1, level, seed, 1.0, 2.0, scores, level)
        for level in (0.05, 0.2)
        for seed in (0, 1)
    ]
    shown = restoration.table(rows, "inpaint")
    assert list(shown.columns[3].cells) == list(shown.columns[4].cells) == ["0.05", "0.2"]
