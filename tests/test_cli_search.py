"""search-schedule: what it prints, writes and keeps, and that sample and test take what it writes."""

import argparse
import json
import re
import shlex
import sys

import numpy as np
import pytest
import torch
import yaml
from methods import ddgan, ufogen
from small_runs import config, fit

from cli.data import load_data
from cli.errors import UsageError
from cli.run_files import read_text, run_config
from cli.schedule_file import level_range, set_levels
from cli.schedule_score import ScheduleScore
from cli.score_cache import ScoreCache
from diffusion.ladder import Ladder
from diffusion.pixels import to_uint8
from diffusion.rng import ImageNoise
from lightning_modules import load_module
from main import main

FAST = ["--num_images", "20", "--grid", "8"]


@pytest.fixture(scope="module")
def last(tmp_path_factory):
    """The last checkpoint of a class-conditional CT run."""
    content = config("CTModule", 128, schedules=[[80.0], [80.0, 0.821]])
    content["data"]["init_args"]["conditional"] = True
    return str(fit(tmp_path_factory.mktemp("ct"), content, name="ct") / "checkpoints" / "last.ckpt")


@pytest.fixture(scope="module")
def bcm(tmp_path_factory):
    return str(fit(tmp_path_factory.mktemp("bcm"), config(images=64)) / "checkpoints" / "last.ckpt")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    run = fit(tmp_path_factory.mktemp("diffusion"), config("DiffusionModule", 64))
    return str(run / "checkpoints" / "last.ckpt")


@pytest.fixture
def places(tmp_path):
    """Options that keep a search's files in the test's own folder."""
    return ["--cache", str(tmp_path / "cache.json"), "--out", str(tmp_path / "found.yaml")]


def search(last, *options):
    return main(["search-schedule", "--ckpt_path", last, *FAST, *options])


def error_of(capsys):
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1 and err[0].startswith("error: "), err
    return err[0]


def rows(out):
    """(levels, score, "known" or a time) of every row of the printed table."""
    found = re.findall(r"^ +\d+  (80(?: > [\d.]+)*) +([\d.]+)  (known|[\d.]+ s)$", out, re.M)
    return [(levels, float(score), how) for levels, score, how in found]


def test_search_writes_the_best_levels_and_says_what_it_assumes(last, places, tmp_path, capsys):
    assert search(last, *places) == 0
    out = capsys.readouterr().out
    table = rows(out)
    assert [levels for levels, *_ in table[:2]] == ["80", "80 > 0.821"]  # beside the result: 1 step, its own levels
    assert 2 + 3 <= len(table) <= 2 + 6 and all(how.endswith(" s") for *_, how in table)
    assert "assumed: one minimum between fixed levels (unimodal)" in out
    text = (tmp_path / "found.yaml").read_text()
    held = yaml.safe_load(text)
    best = min((row for row in table if ">" in row[0]), key=lambda row: row[1])
    assert held["module"] == "CTModule" and " > ".join(f"{x:.4g}" for x in held["levels"]) == best[0]
    for said in (f"fd_digits {best[1]:.4f}", "seeds 1000000-1000019", "sha256", "128 images seen", "--grid 8"):
        assert said in text, said


def test_nothing_is_scored_twice(last, places, capsys, monkeypatch):
    """Neither when the search is repeated, nor by a search for more steps or around the result."""
    assert search(last, *places) == 0
    first = rows(capsys.readouterr().out)
    with monkeypatch.context() as patch:
        patch.setattr(ScheduleScore, "measure", None)
        patch.setattr(ScheduleScore, "reference", None)
        assert search(last, *places) == 0
    again = rows(capsys.readouterr().out)
    assert [row[:2] for row in again] == [row[:2] for row in first] and {how for *_, how in again} == {"known"}
    assert search(last, *places, "--check") == 0
    checked = rows(capsys.readouterr().out)
    assert len(checked) == 2 + 6 and [how for *_, how in checked].count("known") == len(first)


def test_check_finds_the_best_of_the_grid(last, places, tmp_path, capsys):
    assert search(last, *places, "--check") == 0
    out = capsys.readouterr().out
    table = [row for row in rows(out) if ">" in row[0]]
    best = min(table, key=lambda row: row[1])
    assert "check: 6 points of the grid, each level moved alone" in out
    levels = yaml.safe_load((tmp_path / "found.yaml").read_text())["levels"]
    assert " > ".join(f"{x:.4g}" for x in levels) == best[0]


def test_an_interrupted_search_goes_on(last, places, capsys, monkeypatch):
    measure, left = ScheduleScore.measure, 4

    def interrupted(self, levels):
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        return measure(self, levels)

    with monkeypatch.context() as patch:
        patch.setattr(ScheduleScore, "measure", interrupted)
        assert search(last, *places, "--steps", "3") == 130
    capsys.readouterr()
    assert search(last, *places, "--steps", "3") == 0
    assert [how == "known" for *_, how in rows(capsys.readouterr().out)[:5]] == [True] * 4 + [False]


def test_a_score_is_known_for_its_own_protocol_alone(last, bcm, places, capsys):
    for options in ([], ["--first_seed", "7"], ["--num_images", "30"]):
        assert search(last, *places, *options) == 0
        assert "known" not in {how for *_, how in rows(capsys.readouterr().out)}
    assert search(bcm, *places) == 0
    assert "known" not in {how for *_, how in rows(capsys.readouterr().out)}


def test_searches_at_the_same_time_keep_each_others_scores(tmp_path):
    one, other = (ScoreCache(tmp_path / "c.json", {"seeds": seeds}) for seeds in ("0-9", "0-9"))
    one.put((80.0, 0.1 + 0.2), 1.5)
    other.put((80.0,), 2.5)
    ScoreCache(tmp_path / "c.json", {"seeds": "5-9"}).put((80.0,), 3.5)
    read = ScoreCache(tmp_path / "c.json", {"seeds": "0-9"})
    assert (read.get((80.0, 0.1 + 0.2)), read.get((80.0,)), read.get((80.0, 0.3))) == (1.5, 2.5, None)


def test_the_score_is_that_of_test(last, tmp_path):
    """At the same seeds: nothing about the judge, the classes or the quantisation differs."""
    chosen = argparse.Namespace(
        ckpt_path=last, batch_size=500, num_images=40, first_seed=0, inception_weights=None, cache=tmp_path / "c.json"
    )
    score = ScheduleScore(load_module(last), load_data(read_text(run_config(last))), torch.device("cpu"), chosen)
    out = tmp_path / "scores.json"
    assert (
        main(["test", "--ckpt_path", last, "--scores.num_images=40", f"--scores.out={out}", "--scores.steps=[2]"]) == 0
    )
    expected = json.loads(out.read_text())["scores"][0]
    assert expected["protocol"]["reference"] == "train" and expected["protocol"]["source"]["seeds"] == "0-39"
    assert score((80.0, 0.821)) == pytest.approx(expected["distances"]["fd_digits"], rel=1e-6)
    assert score((80.0, 5.0)) != pytest.approx(expected["distances"]["fd_digits"], rel=1e-3)


def test_what_it_says_to_type_next_runs(last, places, tmp_path, capsys, monkeypatch):
    """Three steps, of which the checkpoint has no schedule."""
    assert search(last, *places, "--steps", "3") == 0
    commands = capsys.readouterr().out.split("next:\n")[1].splitlines()
    assert [command.split()[:3] for command in commands] == [["python", "main.py", c] for c in ("test", "sample")]
    monkeypatch.chdir(tmp_path)
    held = yaml.safe_load((tmp_path / "found.yaml").read_text())["levels"]
    assert len(held) == 3
    assert main(shlex.split(commands[0])[2:]) == 0
    said = " > ".join(f"{x:.4g}" for x in held)
    assert f"schedule: {said} ({tmp_path / 'found.yaml'})" in capsys.readouterr().out
    run = tmp_path.joinpath(last).parents[1]
    scores = json.loads((run / "scores_found.json").read_text())["scores"]
    assert {score["protocol"]["source"]["nfe"] for score in scores} == {1.0, 3.0}  # the run's scores.steps is [1]
    assert main(shlex.split(commands[1])[2:]) == 0
    assert "64 images in samples: 3 network evaluations each (counted)" in capsys.readouterr().out


def test_sample_visits_the_levels_of_the_file(last, tmp_path):
    levels = (80.0, 7.5)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"module": "CTModule", "levels": list(levels)}))
    options = ["--schedule", str(tmp_path / "s.yaml"), "--seeds", "0-3", "--class", "3", "--npz", "--no-grid"]
    assert main(["sample", "--ckpt_path", last, "--out", str(tmp_path), *options]) == 0
    module = load_module(last)
    set_levels(module, levels)
    with torch.inference_mode():
        x0 = module.sample(ImageNoise(range(4), (1, 8, 8)), 2, torch.full((4,), 3))
    with np.load(tmp_path / "samples.npz") as held:
        assert abs(held["arr_0"].astype(int) - to_uint8(x0).movedim(1, -1).numpy()).max() <= 1


def test_other_numbers_of_evaluations_stay(last, bcm):
    module = load_module(last)
    set_levels(module, (80.0, 5.0))
    assert [list(levels) for levels in module.schedules] == [[80.0, 5.0], [80.0]]
    module = load_module(bcm)
    set_levels(module, (80.0, 5.0, 1.0))
    assert sorted((plan.steps, len(plan.rounds)) for plan in module.plans) == [(1, 0), (2, 0), (3, 0), (4, 1)]


def test_the_levels_of_bcm(bcm, places, tmp_path, capsys):
    """Ancestral sampling, whose own levels (80, 2.4) are compared with, and zigzag plans are not."""
    assert search(bcm, *places) == 0
    assert rows(capsys.readouterr().out)[1][0] == "80 > 2.4"
    assert search(bcm, *places, "--steps", "3") == 0
    assert "own levels" not in capsys.readouterr().out
    options = ["--schedule", str(tmp_path / "found.yaml"), "--seeds", "0", "--out", str(tmp_path / "s")]
    assert main(["sample", "--ckpt_path", bcm, *options]) == 0
    assert "3 network evaluations each (counted)" in capsys.readouterr().out


@pytest.mark.parametrize(("module", "own"), [("CDModule", "80 > 0.821"), ("CTMModule", "80 > 2.515")])
def test_the_levels_of_distilled_models(module, own, teacher, places, tmp_path, capsys):
    """Through the samplers that they have themselves."""
    run = fit(tmp_path, config(module, 64, teacher=teacher), name=module)
    checkpoint = run / "checkpoints" / "last.ckpt"
    assert search(str(checkpoint), *places) == 0
    assert own in {levels for levels, *_ in rows(capsys.readouterr().out)}
    assert yaml.safe_load((tmp_path / "found.yaml").read_text())["module"] == module
    options = ["--schedule", str(tmp_path / "found.yaml"), "--seeds", "0", "--out", str(tmp_path / "s")]
    assert main(["sample", "--ckpt_path", str(checkpoint), *options]) == 0
    assert "2 network evaluations each (counted)" in capsys.readouterr().out


def test_optuna(last, places, tmp_path, capsys):
    pytest.importorskip("optuna")
    options = [*places, "--method", "optuna", "--trials", "4", "--steps", "3"]
    assert search(last, *options) == 0
    out = capsys.readouterr().out
    assert len(rows(out)) == 1 + 4 and "4 trials over continuous levels" in out
    assert len(yaml.safe_load((tmp_path / "found.yaml").read_text())["levels"]) == 3
    assert search(last, *options) == 0
    assert {how for *_, how in rows(capsys.readouterr().out)} == {"known"}


def test_files_are_in_the_runs_directory_by_default(tmp_path):
    content = config("CTModule", 64)
    run = fit(tmp_path, content)
    assert search(str(run / "checkpoints" / "last.ckpt"), "--grid", "4") == 0
    assert (run / "schedule_search.json").is_file() and (run / "schedule_2_steps.yaml").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "1"], "--steps 1: a single evaluation starts at sigma_max"),
        (["--steps", "8"], "--grid 8: 8 evaluations need at least 9 points"),
        (["--num_images", "5"], "--num_images 5: at least 10"),
        (["--method", "annealing"], "annealing"),
        (["--trials", "5"], "--trials is for --method optuna"),
        (["--stepz", "2"], "no option --stepz; did you mean --steps?"),
        (["--data", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_refusals(options, message, last, places, capsys):
    assert search(last, *places, *options) == 2
    assert message in error_of(capsys)


def test_a_missing_optuna_is_told_before_anything_is_read(places, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert search("nowhere.ckpt", *places, "--method", "optuna") == 2
    assert 'pip install -e ".[search]"' in error_of(capsys)
    assert search("nowhere.ckpt", *places) == 2
    assert "there is no checkpoint nowhere.ckpt" in error_of(capsys)


def test_what_has_no_levels_is_refused(teacher, places, tmp_path, capsys):
    assert search(teacher, *places) == 2
    assert "a DiffusionModule has no levels to choose" in error_of(capsys)
    (tmp_path / "s.yaml").write_text("module: DiffusionModule\nlevels: [80.0, 5.0]")
    for command in ("sample", "test"):
        assert main([command, "--ckpt_path", teacher, "--schedule", str(tmp_path / "s.yaml")]) == 2
        assert "a DiffusionModule has no levels to choose" in error_of(capsys)


def test_points_are_refused(places, tmp_path, capsys):
    content = config("CTModule", 64)
    moons = {"distribution": {"class_path": "datamodules.toy.TwoMoons"}, "batch_size": 64}
    content["data"] = {"class_path": "datamodules.ToyDataModule", "init_args": moons}
    points = fit(tmp_path, content, name="points")
    capsys.readouterr()
    assert search(str(points / "checkpoints" / "last.ckpt"), *places) == 2
    assert "these data are points" in error_of(capsys)


@pytest.mark.parametrize("text", ["{", "[]", '{"0": {"scores": {"80.0": "low"}}}', '{"0": 1}'])
def test_a_damaged_cache_is_refused(text, last, places, tmp_path, capsys):
    (tmp_path / "cache.json").write_text(text)
    assert search(last, *places) == 2
    assert f"{tmp_path / 'cache.json'} is not a cache of search-schedule" in error_of(capsys)


MODULE = "module: CTModule\n"


@pytest.mark.parametrize("command", ["sample", "test"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("module: BCMModule\nlevels: [80.0, 5.0]", "it is for a BCMModule, and the checkpoint holds a CTModule"),
        (MODULE + "levels: [80.0, 5.0, 6.0]", "the levels 80 > 5 > 6 must descend"),
        (MODULE + "levels: [90.0, 5.0]", "from at most sigma_max = 80"),
        (MODULE + "levels: [80.0, 0.001]", "above sigma_min = 0.002"),
        (MODULE + "levels: [80.0, .nan]", "must descend"),
        (MODULE + "levels: [80.0, five]", "levels a list of numbers"),
        (MODULE + "levels: []", "levels a list of numbers"),
        (MODULE + "level: [80.0]", "it must hold module and levels"),
        ("[80.0, 5.0]", "it must hold module and levels"),
        ("levels: [80.0", "this is not YAML"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(command, text, message, last, tmp_path, capsys):
    (tmp_path / "s.yaml").write_text(text)
    options = ["--out", str(tmp_path / "samples")] if command == "sample" else []
    assert main([command, "--ckpt_path", last, "--schedule", str(tmp_path / "s.yaml"), *options]) == 2
    assert message in (line := error_of(capsys)) and f"--schedule {tmp_path / 's.yaml'}" in line


def test_a_missing_file_and_other_steps_are_refused(last, tmp_path, capsys):
    assert main(["sample", "--ckpt_path", last, "--schedule", "nowhere.yaml", "--out", str(tmp_path)]) == 2
    assert "--schedule nowhere.yaml: there is no such file" in error_of(capsys)
    (tmp_path / "s.yaml").write_text(MODULE + "levels: [80, 5]")
    options = ["--schedule", str(tmp_path / "s.yaml"), "--steps", "4", "--out", str(tmp_path)]
    assert main(["sample", "--ckpt_path", last, *options]) == 2
    assert "--steps 4: the levels 80 > 5" in error_of(capsys)


def test_help(capsys):
    assert main(["--help"]) == 0
    assert "  search-schedule  " in capsys.readouterr().out
    assert main(["search-schedule", "--help"]) == 0
    out = capsys.readouterr().out
    assert "assumes that the score has one minimum" in " ".join(out.split())
    assert main(["test", "--help"]) == 0
    assert "--schedule" in capsys.readouterr().out


def test_the_rungs_of_a_ladder_are_no_levels_to_choose():
    """A generator that was trained at a few levels has nothing to search; one that was trained at all has."""
    for module in (ufogen(), ddgan()):
        with pytest.raises(UsageError, match="trained at the rungs of its ladder alone"):
            level_range(module)
    assert level_range(ufogen(ladder=Ladder(substeps=250))) == (0.002, 80.0)
