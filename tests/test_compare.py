"""Comparisons of small runs: what is done is not done again, and whatever happens on the way, the table is the same."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from small_runs import config

from cli.compare_plan import Training, parse_plan
from main import main

ROOT = Path(__file__).parents[1]
CONFIGS = {"ct": "CTModule", "teacher": "DiffusionModule", "cd": "CDModule", "bcm": "BCMModule"}


def plan(folder, **changes):
    """A file that compares two methods, one of them with a teacher."""
    folder.mkdir(exist_ok=True)
    for name, module in CONFIGS.items():
        content = config(module)
        if name == "cd":
            content["model"]["init_args"]["teacher"] = "to be given"
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    content = {
        "root": str(folder / "out"),
        "total_images": 256,
        "num_images": 20,
        "seed_ranges": 2,
        "methods": {
            "CD": {"config": "cd.yaml", "steps": [1, 2], "checkpoints": {"model.init_args.teacher": "EDM"}},
            "CT": {"config": "ct.yaml", "steps": [1]},
            "EDM": {"config": "teacher.yaml", "steps": [3]},
        },
        **changes,
    }
    (folder / "plan.yaml").write_text(yaml.safe_dump(content))
    return folder / "plan.yaml"


def lasting(folder):
    """The bytes of compare.json without its times."""
    content = json.loads((folder / "out" / "compare.json").read_text())
    times = [row for row in content.pop("times") if row["steps"]]
    assert all(row["seconds_per_image"] > 0 and row["training_seconds"] > 0 for row in times)
    return json.dumps(content)


FAULTS = ("real: train", "real + noise 0.1", "real + noise 0.3", "real: without class 9", "real: 5 images repeated")
REAL = [
    ("real: test", None, "train"),
    ("real: half of train", None, "other half"),
    *((name, None, split) for name in FAULTS for split in ("train", "test")),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    assert main(["compare", "--config", str(plan(folder))]) == 0
    return folder


def test_the_table(whole):
    content = json.loads((whole / "out" / "compare.json").read_text())
    rows = content["rows"]
    assert [(r["method"], r["steps"], r["reference"]) for r in rows] == [
        (method, steps, split)
        for method, steps in (("CD", 1), ("CD", 2), ("CT", 1), ("EDM", 3))
        for split in ("train", "test")
    ] + REAL
    for row in rows:
        values = [row["values"][key] for key in ("fd_digits", "fd_digits/judge_1", "fd_digits/judge_2")]
        means = [sum(judged) / 3 for judged in zip(*(v["values"] for v in values), strict=True)]
        assert row["values"]["fd_digits_judges"]["values"] == pytest.approx(means)
        assert len(values[0]["values"]) == 1 + (row["method"] not in ("real: test", "real: half of train"))
        assert row["values"]["fd_digits_judges_std"]["least"] >= 0
    for row in rows[: -len(REAL)]:
        assert row["nfe"] == row["steps"] and row["images_seen"] == 256
        fd = row["values"]["fd_digits"]
        assert len(fd["values"]) == 2 and fd["values"][0] != fd["values"][1]
        assert fd["mean"] == pytest.approx(sum(fd["values"]) / 2) and fd["least"] == min(fd["values"])
        assert fd["std"] == pytest.approx(abs(fd["values"][0] - fd["values"][1]) / 2**0.5)
    assert content["parameters"]["CT"] == content["parameters"]["CD"] > 1000
    assert content["protocol"]["judges_sha256"].count(",") == 1
    lines = (whole / "out" / "compare.csv").read_text().splitlines()
    assert len(lines) == 1 + sum(len(r["values"]) for r in rows) and lines[1].startswith("CD,1,train,1.0,256,")


def test_a_score_is_that_of_the_command_test(whole):
    """Of the same seeds."""
    from cli.compare_train import last_checkpoint

    made, _, _ = parse_plan(["--config", str(whole / "plan.yaml")])
    out = whole / "scores.json"
    options = ["--scores.steps", "[1]", "--scores.num_images", "20", "--scores.out", str(out)]
    assert main(["test", "--ckpt_path", str(last_checkpoint(made.folder(Training("CT")))), *options]) == 0
    ours = {r["reference"]: r["values"]["fd_digits"]["values"][0] for r in rows_of(whole, "CT")}
    theirs = {s["protocol"]["reference"]: s["distances"]["fd_digits"] for s in json.loads(out.read_text())["scores"]}
    assert ours == theirs


def test_the_report(whole):
    text = (whole / "out" / "report.html").read_text()
    for method in ("CD", "CT", "EDM"):
        assert f"<h3>{method}</h3>" in text and f"Training loss of {method} by images seen" in text
    assert text.count("<img") == 4 + 1  # a grid for each number of evaluations, one of real images
    assert "EDM: no sampler of NFE 2 (steps=2: Heun takes" in text and "No inversion pairs of CD, CT and EDM" in text
    assert "CT: not scored at NFE 2, which it has a sampler for" in text and "CT: no sampler of NFE 3" in text


def test_a_second_time_nothing_is_done(whole, capsys):
    before, files = lasting(whole), {p: p.stat().st_mtime_ns for p in (whole / "out" / "results").iterdir()}
    assert main(["compare", "--config", str(whole / "plan.yaml")]) == 0
    said = capsys.readouterr().out
    assert "scores: 0 new, 8 known" in said and "training of" not in said and said.count("trained already") == 3
    assert lasting(whole) == before
    assert files == {p: p.stat().st_mtime_ns for p in (whole / "out" / "results").iterdir()}


def test_two_processes(whole, tmp_path):
    """Of the same runs; what they are called does not say where they lie."""
    made = plan(tmp_path / "two")
    shutil.copytree(whole / "out" / "runs", tmp_path / "two" / "out" / "runs")
    assert main(["compare", "--config", str(made), "--jobs", "2"]) == 0
    assert lasting(tmp_path / "two") == lasting(whole)


def killed_and_begun_again(folder, moments, **changes):
    command = [sys.executable, "-m", "main", "compare", "--config", str(plan(folder, **changes))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for seconds in moments:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, env=environment, timeout=300).returncode == 0
    return json.loads((folder / "out" / "compare.json").read_text())["rows"]


def test_killed_and_begun_again(whole, tmp_path):
    """kill -9 of the comparison, whose training goes on alone: the next start waits for it."""
    methods = {"CT": {"config": "ct.yaml", "steps": [1]}}
    found = killed_and_begun_again(tmp_path / "killed", [6], methods=methods)
    assert [r["values"] for r in found[:2]] == [r["values"] for r in rows_of(whole, "CT")]


@pytest.mark.slow
def test_killed_ten_times(whole, tmp_path):
    moments = [random.Random(i).uniform(1, 20) for i in range(10)]
    found = killed_and_begun_again(tmp_path / "killed", moments)
    assert found == json.loads((whole / "out" / "compare.json").read_text())["rows"]


def rows_of(folder, method):
    content = json.loads((folder / "out" / "compare.json").read_text())
    return [row for row in content["rows"] if row["method"] == method]


def test_another_config_is_another_run(whole, tmp_path):
    one, _, _ = parse_plan(["--config", str(whole / "plan.yaml")])
    two, _, _ = parse_plan(["--config", str(whole / "plan.yaml"), "--total_images", "512"])
    assert one.folder(Training("CT")) != two.folder(Training("CT"))
    edited = plan(tmp_path / "edited")
    same, _, _ = parse_plan(["--config", str(edited)])
    assert same.folder(Training("CD")).name == one.folder(Training("CD")).name
    teacher = tmp_path / "edited" / "teacher.yaml"
    teacher.write_text(f"# a comment\n\n{teacher.read_text()}")
    assert same.folder(Training("CD")).name == one.folder(Training("CD")).name
    teacher.write_text(teacher.read_text().replace("seed_everything: 1", "seed_everything: 2"))
    assert (
        same.folder(Training("CD")).name != one.folder(Training("CD")).name
        and same.folder(Training("CT")).name == one.folder(Training("CT")).name
    )


def test_a_trained_run_is_taken(whole, tmp_path, capsys):
    from cli.compare_train import last_checkpoint

    made, _, _ = parse_plan(["--config", str(whole / "plan.yaml")])
    run = last_checkpoint(made.folder(Training("CT"))).parents[1]
    changed = plan(tmp_path / "taken", methods={"mine": {"run": str(run), "steps": [1]}})
    assert main(["compare", "--config", str(changed)]) == 0
    mine = rows_of(tmp_path / "taken", "mine")
    assert [r["values"] for r in mine] == [r["values"] for r in rows_of(whole, "CT")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": {"CT": {"steps": [1]}}}, "CT names neither a config nor a run, and is of no other method"),
        (
            {"methods": {"CT": {"config": "ct.yaml", "run": "x", "steps": [1]}}},
            "either a config or a run, or is of another method",
        ),
        ({"methods": {"CT": {"of": "CT", "steps": [1]}}}, "CT needs CT: none can come first"),
        ({"training_seeds": []}, "training_seeds=[]"),
        ({"methods": {"CT": {"run": "nowhere", "steps": [1]}}}, "there is no checkpoint nowhere"),
        ({"methods": {"CT": {"config": "ct.yaml", "steps": []}}}, "at least one number of evaluations"),
        ({"num_images": 0}, "num_images=0"),
        (
            {"methods": {"CD": {"config": "cd.yaml", "steps": [1], "checkpoints": {"model.init_args.teacher": "EMD"}}}},
            "CD needs EMD, which is no method",
        ),
        (
            {
                "methods": {
                    "A": {"config": "ct.yaml", "steps": [1], "checkpoints": {"x": "B"}},
                    "B": {"config": "cd.yaml", "steps": [1], "checkpoints": {"x": "A"}},
                }
            },
            "A needs B needs A: none can come first",
        ),
    ],
)
def test_bad_plans_are_refused_in_one_line(changes, message, tmp_path, capsys):
    assert main(["compare", "--config", str(plan(tmp_path / "bad", **changes))]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two trainings of a method, used in three ways; of two others one fails, and a third needs it."""
    folder, broken = tmp_path_factory.mktemp("study"), ["--model.init_args.optimizer.init_args.lr=-1"]
    methods = {
        "BCM": {"config": "bcm.yaml", "steps": [1, 2]},
        "other levels": {"of": "BCM", "steps": [2], "arguments": {"plans": [{"levels": [80.0, 2.0]}],
                                                                  "inversions": [[0.0, 80.0], [0.2, 80.0]]}},
        "without EMA": {"of": "BCM", "steps": [1], "averaged": False},
        "broken": {"steps": [1], "options": broken},
        "CD": {"config": "cd.yaml", "steps": [1], "checkpoints": {"model.init_args.teacher": "broken"}},
    }  # fmt: skip
    made = plan(folder, methods=methods, training_seeds=[0, 1], seed_ranges=1, base="teacher.yaml")
    assert main(["compare", "--config", str(made)]) == 2
    return folder


def test_trainings_enter_one_row(study):
    made, _, _ = parse_plan(["--config", str(study / "plan.yaml")])
    assert [str(t) for t in made.trainings("other levels")] == ["BCM, seed 0", "BCM, seed 1"]
    assert [t.seed for t in made.given(made.trainings("CD")[1]).values()] == [1]
    content = json.loads((study / "out" / "compare.json").read_text())
    found = {(r["method"], r["steps"]): r["values"]["fd_digits"] for r in content["rows"] if r["reference"] == "train"}
    assert [len(found[key]["values"]) for key in (("BCM", 1), ("BCM", 2), ("other levels", 2), ("without EMA", 1))] == [
        2
    ] * 4
    assert found["BCM", 1]["std"] > 0 and len({str(spread) for spread in found.values()}) == len(found)
    ways = {(way["method"], *way["levels"]): way["values"] for way in content["inversions"]}
    assert ("other levels", 0.0, 80.0) in ways and ("other levels", 0.2, 80.0) in ways
    assert all(len(values["error"]["values"]) == 2 for values in ways.values())
    assert "other levels,1,test,1.0,,,,inversion_error (0 > 80)," in (study / "out" / "compare.csv").read_text()
    assert ways["BCM", 0.07, 80.0]["error"] != ways["without EMA", 0.07, 80.0]["error"]


def test_weights_of_the_last_step_are_no_average(study):
    content = json.loads((study / "out" / "compare.json").read_text())
    page = (study / "out" / "report.html").read_text()
    assert content["failed"].keys() == {"broken, seed 0", "broken, seed 1", "CD, seed 0", "CD, seed 1"}
    assert "(rate 0.9999 or 0.0)" in page and "mean ± deviation over 2 trainings" in page


def test_a_failed_training_is_told(study, capsys):
    """And the others are compared all the same."""
    assert main(["compare", "--config", str(study / "plan.yaml")]) == 2
    said = capsys.readouterr().err
    assert "broken, seed 1: its training ended early (exit code 2)" in said and "learning rate" in said
    assert "CD, seed 0: it needs broken, seed 0, which failed" in said
    assert "CD, seed 0 has no scores" in (study / "out" / "report.html").read_text()


def test_an_inversion_that_diverges_is_told(study, tmp_path, monkeypatch):
    """Once: it is not tried again."""
    from cli import compare_score
    from cli.compare_train import last_checkpoint

    made, _, _ = parse_plan(["--config", str(study / "plan.yaml")])
    path = last_checkpoint(made.folder(made.trainings("BCM")[0]))
    task = compare_score.Task("BCM", path, (1,), (range(10),), tmp_path, 10, None, 1)

    def diverging(*args, **options):
        raise ValueError("9 of 16 images are not finite")

    monkeypatch.setattr(compare_score, "score_inversion", diverging)
    assert compare_score.Scoring(task).inversions() == ["9 of 16 images are not finite"] * 2
    monkeypatch.undo()
    assert compare_score.Scoring(task).inversions() == ["9 of 16 images are not finite"] * 2


def test_an_argument_that_the_module_does_not_take_is_told_in_one_line(study):
    from cli.compare_train import last_checkpoint
    from lightning_modules.checkpoint import CheckpointError, load_module

    made, _, _ = parse_plan(["--config", str(study / "plan.yaml")])
    path = last_checkpoint(made.folder(made.trainings("BCM")[0]))
    with pytest.raises(CheckpointError, match=r"unexpected keyword argument 'nonsense'$"):
        load_module(path, arguments={"nonsense": 1})


def test_shipped_comparisons_are_of_equal_networks_and_budgets():
    for path in (ROOT / "configs").glob("compare*.yaml"):
        made, _, _ = parse_plan(["--config", str(path)])
        files = [made.config(name) for name, entry in made.methods.items() if entry.trained]
        networks = [yaml.safe_load(file.read_text())["model"]["init_args"]["network"] for file in files]
        widths = {yaml.safe_load((ROOT / "configs" / name).read_text())["init_args"]["width"] for name in networks}
        assert len(widths) == 1 and made.total_images
