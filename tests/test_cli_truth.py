"""`truth`: what it prints and writes for each kind of method, and what it refuses."""

import json
import math

import pytest
import yaml
from small_runs import config, fit

from main import main

SMALL = ["--trajectories", "10", "--points", "20", "--resamples", "20", "--levels", "2"]


def toy(module="CTModule", distribution="GaussianMixture", **init_args):
    content = config(module, 64, **init_args)
    content["data"] = {
        "class_path": "datamodules.ToyDataModule",
        "init_args": {"distribution": {"class_path": f"datamodules.toy.{distribution}"}, "n": 500, "batch_size": 64},
    }
    return content


def last(run):
    return str(run / "checkpoints" / "last.ckpt")


def truth(checkpoint, *options):
    """Exit code of `truth` with few points."""
    return main(["truth", "--ckpt_path", str(checkpoint), *SMALL, *options])


def error_of(capsys):
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1 and err[0].startswith("error: "), err
    return err[0]


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    """The directory of a CT run on the ring of Gaussians."""
    return fit(tmp_path_factory.mktemp("points"), toy(), name="points")


@pytest.fixture(scope="module")
def bcm(tmp_path_factory):
    """The last checkpoint of a class-conditional BCM run on the digits."""
    content = config(images=64)
    content["data"]["init_args"]["conditional"] = True
    return last(fit(tmp_path_factory.mktemp("bcm"), content, name="bcm"))


def test_a_consistency_model_of_points(points, capsys):
    assert truth(last(points)) == 0
    out = capsys.readouterr().out
    assert "8 Gaussians, std 0.05; CTModule, 64 images seen" in out
    assert "Map x_t -> x at 0.002" in out and "drawn from the law" in out and f"{points / 'truth.json'}" in out
    content = json.loads((points / "truth.json").read_text())
    assert content["module"] == "CTModule" and content["images_seen"] == 64 and content["seed"] == 0
    assert content["data"]["components"] == 8 and content["data"]["classes"] == 0
    assert set(content) & {"map", "posterior_mean", "generation", "inversion", "noise"} == {"map"}
    first, second = content["map"]
    assert (first["sigma"], second["sigma"]) == pytest.approx((0.4, 80)) and second["points"] == 10
    # next to nothing is learned: no better than a constant, at the top
    assert 0.5 < second["error"] / second["constant"] < 2 and first["solver"] < 1e-3
    assert [(row["name"], row["against"]) for row in content["sets"]] == [
        ("samples, NFE 1", "fresh"),
        ("floor: fresh", "fresh"),
        ("fresh + 0.002 noise", "fresh"),
    ]
    for row in content["sets"]:
        for value in (row["sliced_wasserstein"], row["squared_mmd"]):
            assert value["low"] <= value["value"] <= value["high"]


def test_the_seed_decides(points, tmp_path):
    contents = []
    for seed in (5, 5, 6):
        assert truth(last(points), "--seed", str(seed), "--out", str(tmp_path / "t.json")) == 0
        contents.append(json.loads((tmp_path / "t.json").read_text()))
    assert contents[0] == contents[1]
    assert contents[0]["map"] != contents[2]["map"] and contents[0]["sets"] != contents[2]["sets"]


def test_a_bidirectional_model_of_a_finite_set(bcm, tmp_path, capsys):
    assert truth(bcm, "--out", str(tmp_path / "t.json")) == 0
    out = capsys.readouterr().out
    assert "1,437 images, a finite set of 10 classes" in out
    assert "drawn from the training set itself, with replacement" in " ".join(out.split())
    content = json.loads((tmp_path / "t.json").read_text())
    one, two = content["inversion"]
    assert one["levels"] == [0.07, 80.0] and (one["nfe"], two["nfe"]) == (1, 2)
    assert one["exact"] < 0.1 < one["round_trip"]  # 0.07 is little noise, and next to nothing is learned
    assert [row["name"] for row in content["noise"]] == [
        "0.07 > 80",
        "0.07 > 15 > 80",
        "exact, 0.07 > 80",
        "normal draws",
    ]
    assert content["noise"][2]["std"] == pytest.approx(1, rel=0.1)
    assert [row["against"] for row in content["sets"]] == ["fresh"] * 3 + ["held out"] * 2


def test_a_diffusion_model_is_measured_as_one(teacher, tmp_path, capsys):
    assert truth(teacher, "--steps", "3", "--out", str(tmp_path / "t.json")) == 0
    out = capsys.readouterr().out
    assert "posterior mean E[x0 | x_t]" in " ".join(out.split()) and "half the" not in out
    content = json.loads((tmp_path / "t.json").read_text())
    assert set(content) & {"map", "posterior_mean", "generation", "inversion"} == {"posterior_mean"}
    assert [row["name"] for row in content["sets"]] == ["samples, NFE 3", "floor: fresh"] * 2
    top = content["posterior_mean"][-1]
    assert top["sigma"] == 80 and top["constant"] < 0.1 and math.isfinite(top["error"])


def test_what_is_distilled_into_one_evaluation_is_measured_there(teacher, tmp_path, capsys):
    run = fit(tmp_path, config("KDModule", 64, teacher=teacher), name="kd")
    assert truth(last(run)) == 0
    assert "Noise -> data in 1 evaluation against the exact map" in " ".join(capsys.readouterr().out.split())
    content = json.loads((run / "truth.json").read_text())
    assert set(content) & {"map", "posterior_mean", "generation", "inversion"} == {"generation"}
    assert [row["sigma"] for row in content["generation"]] == [80]


def test_a_gan_has_no_map(tmp_path, capsys):
    run = fit(tmp_path, toy("UFOGenModule"), name="gan")
    assert truth(last(run)) == 0
    out = capsys.readouterr().out
    assert "a UFOGenModule gives samples of x0 given x_t" in out and "Samples against data" in out
    content = json.loads((run / "truth.json").read_text())
    assert not set(content) & {"map", "posterior_mean", "generation", "inversion"} and len(content["sets"]) == 2


def test_data_without_an_exact_solution(tmp_path, capsys):
    run = fit(tmp_path, toy(distribution="Checkerboard"), name="board")
    capsys.readouterr()
    assert truth(last(run)) == 2
    assert "Checkerboard(cells=4, extent=1.0) has no exact solution" in error_of(capsys)
    assert not (run / "truth.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trajectories", "3000"], "91,968 values, allowed are 66,666"),
        (["--trajectories", "9"], "--trajectories 9: it must be at least 10"),
        (["--seed", "-1"], "--seed -1: it must be at least 0"),
        (["--resamples", "19"], "--resamples 19: it must be at least 20"),
        (["--steps", "7"], "steps=7: this model has plans for [1, 2, 3, 4]"),
        (["--stepz", "7"], "no option --stepz; did you mean --steps?"),
        (["--data", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_refusals(options, message, bcm, capsys):
    """Before anything is measured."""
    capsys.readouterr()
    assert truth(bcm, *options) == 2
    out, err = capsys.readouterr()
    assert message in err and err.startswith("error: ") and err.count("\n") == 1 and not out


def test_other_data_than_the_models(points, bcm, tmp_path, capsys):
    (tmp_path / "digits.yaml").write_text(yaml.safe_dump(config()["data"]))
    assert truth(last(points), "--data", str(tmp_path / "digits.yaml")) == 2
    assert "the data are 1 x 8 x 8, and the model's are 2 x 1 x 1" in error_of(capsys)
    assert truth("nowhere.ckpt") == 2
    assert "there is no checkpoint nowhere.ckpt" in error_of(capsys)


def test_other_data_of_the_same_shape(points, tmp_path):
    """The grid in the place of the ring: the law is that of --data."""
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(toy(distribution="GaussianGrid")["data"]))
    assert truth(last(points), "--data", str(tmp_path / "grid.yaml"), "--out", str(tmp_path / "t.json")) == 0
    assert json.loads((tmp_path / "t.json").read_text())["data"]["components"] == 25


def test_help(capsys):
    assert main(["--help"]) == 0
    assert "  truth  " in capsys.readouterr().out
    assert main(["truth", "--help"]) == 0
    assert "200,000,000 images x elements x trajectories" in " ".join(capsys.readouterr().out.split())
