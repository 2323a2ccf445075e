"""Restoration in a comparison: scores as `restore` has them, kept, in JSON, CSV and the report; and what is refused."""

import csv
import json
import re
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
import torch
from jsonargparse.typing import Path_fr
from methods import bcm
from PIL import Image
from test_cli_restore import scores
from test_compare import lasting, plan
from test_scores_inversion import ExactNetwork, gaussian_images

from cli import restore_levels, restore_run
from cli.compare_restorations import SHOWN, Repairs, Restoration
from cli.restore_trial import Judge
from evaluation.features import extract, feature_network_for
from evaluation.restoration import psnr
from main import main

TASKS = {
    "holes": {
        "task": "inpaint",
        "ways": {"zero-shot": [1, 2], "noise-space": [1], "ddnm": [2]},
        "images": 12,
        "seeds": 2,
    },
    "small ones": {"task": "upscale", "factor": 4, "ways": {"zero-shot": [1]}, "level": 3.0, "images": 12, "seeds": 1},
    "saved": {"task": "jpeg", "ways": {"ddrm": [2]}, "images": 12, "seeds": 1},
}
METHODS = {
    "BCM": {"config": "bcm.yaml", "steps": [1]},
    "CT": {"config": "ct.yaml", "steps": [1]},
    "EDM": {"config": "teacher.yaml", "steps": [3]},
}


def compare(folder, **changes):
    methods = {name: METHODS[name] for name in ("BCM", "CT", "EDM")}
    content = {"methods": methods, "restorations": TASKS, "seed_ranges": 1, "total_images": 128, **changes}
    return main(["compare", "--config", str(plan(folder, **content))])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("restorations")
    assert compare(folder) == 0
    return folder


@pytest.fixture(scope="module")
def content(whole):
    return json.loads((whole / "out" / "compare.json").read_text())


def row(content, *key):
    return next(r for r in content["restorations"] if (r["task"], r["method"], r["way"], r["steps"]) == key)


@pytest.mark.slow
def test_every_model_has_the_ways_that_it_can(content):
    found = [(r["task"], r["method"], r["way"], r["steps"]) for r in content["restorations"]]
    assert found == [
        ("holes", "BCM", "noise-space", 1),
        ("holes", "BCM", "control of noise-space", None),
        ("holes", "BCM", "zero-shot", 1),
        ("holes", "BCM", "zero-shot", 2),
        ("holes", "CT", "zero-shot", 1),
        ("holes", "CT", "zero-shot", 2),
        ("holes", "EDM", "ddnm", 2),
        ("holes", "", "given", None),
        ("holes", "", "clean", None),
        ("small ones", "BCM", "zero-shot", 1),
        ("small ones", "CT", "zero-shot", 1),
        ("small ones", "", "given", None),
        ("small ones", "", "clean", None),
        ("saved", "", "given", None),
        ("saved", "", "clean", None),
    ]
    assert [r["nfe"] for r in content["restorations"][:7]] == [2, 1, 1, 2, 1, 2, 2]
    names = ["consistency", "psnr", "ssim", "fd_digits"]
    assert all(r["images"] == 12 and list(r["values"]) == names for r in content["restorations"])
    assert row(content, "holes", "", "clean", None)["values"]["psnr"]["values"] == [60.0]
    assert row(content, "holes", "", "given", None)["values"]["consistency"]["values"] == [60.0]
    assert row(content, "small ones", "CT", "zero-shot", 1)["levels"] == [3.0]


@pytest.mark.slow
def test_the_scores_are_those_of_restore(whole, content, tmp_path):
    last = next((whole / "out" / "runs").glob("ct-*/ct/*/checkpoints/last.ckpt"))
    options = ["--ckpt_path", str(last), "--seeds", "0-11", "--steps", "2", "--out", str(tmp_path), "--task", "inpaint"]
    assert main(["restore", *options]) == 0
    found = scores(tmp_path)["scores"]["restored"]
    values = row(content, "holes", "CT", "zero-shot", 2)["values"]
    for name in ("psnr", "ssim", "consistency"):
        assert values[name]["values"][0] == pytest.approx(fmean(found[name]), abs=0.02)
    assert len(values["psnr"]["values"]) == 2 and values["psnr"]["values"][0] != values["psnr"]["values"][1]


@pytest.mark.slow
def test_a_second_time_nothing_is_restored(whole, monkeypatch):
    before = lasting_rows(whole)
    with monkeypatch.context() as patch:
        patch.setattr(restore_run.Restorer, "_run", None)
        assert compare(whole) == 0
    assert lasting_rows(whole) == before
    kept = json.loads((whole / "out" / "compare.json").read_text())["restoration_times"]
    assert [t["seconds_per_image"] is None for t in kept].count(True) == 6


def lasting_rows(folder):
    """All of compare.json but the times."""
    content = json.loads(lasting(folder))
    content.pop("restoration_times")
    return content


@pytest.mark.slow
def test_a_damaged_picture_is_made_anew_alike(whole, capsys):
    before = lasting_rows(whole)
    for path in (whole / "out" / "results").glob("*.npz"):
        path.write_bytes(path.read_bytes()[:-30])
    assert compare(whole) == 0
    assert capsys.readouterr().out.count("made anew") >= 15 and lasting_rows(whole) == before


@pytest.mark.slow
def test_numbers_in_the_csv(whole, content):
    with open(whole / "out" / "compare.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    line = next(line for line in lines if line["name"] == "holes_psnr (ddnm)")
    expected = row(content, "holes", "EDM", "ddnm", 2)["values"]["psnr"]
    assert (line["method"], line["steps"], line["nfe"]) == ("EDM", "2", "2.0")
    assert (float(line["mean"]), float(line["std"])) == (expected["mean"], expected["std"]) and expected["std"] > 0


@pytest.mark.slow
def test_the_report_shows_them(whole):
    text = (whole / "out" / "report.html").read_text()
    section = text[text.index("Restoration</h2>") : text.index("Training</h2>")]
    assert re.findall("<h3>(.*?)</h3>", section) == ["holes", "small ones", "saved"]
    assert len(re.findall("<img", section)) == 15 and section.count("<table>") == 3
    assert "control of noise-space" in section and "what was given, returned as it is" in section
    assert "EDM: no saved by ddrm with 2 levels" in text and "JPEG: DDRM is for linear operators" in text


@pytest.mark.slow
def test_a_plan_without_restorations_says_nothing_of_them(whole, tmp_path):
    options = {"restorations": {}, "methods": {"CT": METHODS["CT"]}, "runs": str(whole / "out" / "runs")}
    assert compare(tmp_path, **options) == 0
    assert "restorations" not in json.loads((tmp_path / "out" / "compare.json").read_text())
    assert "Restoration</h2>" not in (tmp_path / "out" / "report.html").read_text()


@pytest.fixture
def repairs(tmp_path):
    """Of a bidirectional model of Gaussian images that makes no error."""
    module = bcm(sigma_data=0.25).eval()
    module.image_shape = (1, 8, 8)
    module.denoiser.network = module.ema.evaluated.network = ExactNetwork()
    images, network = gaussian_images(40), feature_network_for((1, 8, 8))
    judge = Judge(network, extract(network, images))
    return Repairs("BCM", module, images, None, tmp_path, {"data": "ab"}, {"checkpoint": "cd"}, lambda: judge, 7)


def test_a_checkpoints_restorations_are_made_once(repairs, tmp_path):
    tasks = {
        "holes": Restoration("inpaint", {"zero-shot": [1, 2], "zigzag": [2], "ddnm": [2]}, images=12, seeds=2),
        "blurred": Restoration("unblur", {"zero-shot": [2]}, images=12, seeds=1),
    }
    found = repairs.all(tasks)
    assert [(one.task, one.way, one.steps, one.nfe) for one in found] == [
        ("holes", "zero-shot", 1, 1),
        ("holes", "zero-shot", 2, 2),
        ("holes", "zigzag", 2, 4),
        ("holes", "control of zigzag", None, 1),
        ("blurred", "zero-shot", 2, 2),
    ]
    first, beside = found[0], repairs.beside(tasks)
    kept = np.ones((8, 8), bool)
    kept[2:6, 2:6] = False
    truth = beside[1].pictures
    assert (beside[1].way, first.pictures.shape) == ("clean", (SHOWN, 1, 8, 8))
    assert (truth == gaussian_images(40)[:SHOWN].numpy()).all()
    assert (first.pictures[..., kept] == truth[..., kept]).all()
    by_hand = [float(psnr(torch.from_numpy(first.pictures), torch.from_numpy(truth))[i]) for i in range(SHOWN)]
    assert abs(fmean(by_hand) - first.values["psnr"][0]) < 1.5  # of the 12, of which 10 are kept as pictures
    assert len(first.values["psnr"]) == 2 and first.values["psnr"][0] != first.values["psnr"][1]
    again = replace(repairs, judge=None)
    repairs.module.ema.evaluated.network = None  # nothing is evaluated
    for one, other in zip((*found, *beside), (*again.all(tasks), *again.beside(tasks)), strict=True):
        assert one.values == other.values and one.levels == other.levels and (one.pictures == other.pictures).all()


def test_what_is_refused_is_kept_as_it_was_said(repairs, monkeypatch):
    """Here a ladder of levels in which there are not so many."""
    tasks = {"holes": Restoration("inpaint", {"zero-shot": [3]}, images=12, seeds=1)}
    with monkeypatch.context() as patch:
        patch.setattr(restore_levels, "levels_down", lambda *_: (_ for _ in ()).throw(ValueError("too few rungs")))
        assert repairs.all(tasks) == ["holes by zero-shot with 3 levels: too few rungs"]
    assert repairs.all(tasks) == ["holes by zero-shot with 3 levels: too few rungs"]


def test_another_mask_or_number_is_another_score(tmp_path):
    first, second = (tmp_path / f"{name}.png" for name in "ab")
    for path, column in ((first, 1), (second, 2)):
        mask = np.full((8, 8), 255, np.uint8)
        mask[:, column] = 0
        Image.fromarray(mask).save(path)
    ones = [Restoration("inpaint", mask=Path_fr(str(path))).context() for path in (first, second)]
    assert ones[0] != ones[1] != Restoration("inpaint").context()
    assert Restoration("upscale", factor=2).context() != Restoration("upscale", factor=4).context()
    assert Restoration("inpaint", factor=2).context() == Restoration("inpaint", factor=4).context()


@pytest.mark.parametrize(
    ("restoration", "message"),
    [
        ({"task": "inpainted"}, "there is no task inpainted; did you mean inpaint?"),
        ({"task": "inpaint", "ways": {"zeroshot": [1]}}, "there is no way zeroshot to restore; did you mean zero-shot"),
        ({"task": "inpaint", "ways": {"ddnm": [0]}}, "each >= 1"),
        ({"task": "inpaint", "images": 5}, "at least 1, 10 and 1"),
        ({"task": "inpaint", "mask": "nowhere.png"}, "nowhere.png"),
    ],
)
def test_bad_plans_are_refused_in_one_line(tmp_path, capsys, restoration, message):
    assert compare(tmp_path, restorations={"one": restoration}) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


@pytest.mark.slow
def test_a_task_that_is_none_of_the_images_is_refused(whole, tmp_path, capsys):
    options = {"methods": {"CT": METHODS["CT"]}, "runs": str(whole / "out" / "runs")}
    assert compare(tmp_path, restorations={"one": {"task": "colourise", "images": 10}}, **options) == 2
    assert "this model's images are grey themselves" in capsys.readouterr().err
