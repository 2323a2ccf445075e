"""The benchmark of restoration: its rows, its rows beside, and what a method is not made for."""

import json
import statistics

import pytest
from PIL import Image
from test_cli_image_to_image import trained

from benchmarks import restoration


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
    assert len(controls) == 3 * 2 and {r["nfe"] for r in controls} == {1} and {r["level"] for r in controls} == {0.1}
    assert {r["seed"] for r in controls} == {0, 1}


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
