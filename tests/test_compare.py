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

from cli.compare_plan import entry_config, parse_plan
from main import main

ROOT = Path(__file__).parents[1]


def plan(folder, **changes):
    """A file that compares two methods, one of them with a teacher."""
    folder.mkdir(exist_ok=True)
    for name, module in (("ct", "CTModule"), ("teacher", "DiffusionModule"), ("cd", "CDModule")):
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
    assert main(["test", "--ckpt_path", str(last_checkpoint(made.folder("CT"))), *options]) == 0
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
    assert one.folder("CT") != two.folder("CT")
    edited = plan(tmp_path / "edited")
    same, _, _ = parse_plan(["--config", str(edited)])
    assert same.folder("CD").name == one.folder("CD").name
    teacher = tmp_path / "edited" / "teacher.yaml"
    teacher.write_text(teacher.read_text().replace("seed_everything: 1", "seed_everything: 2"))
    assert same.folder("CD").name != one.folder("CD").name and same.folder("CT").name == one.folder("CT").name


def test_a_trained_run_is_taken(whole, tmp_path, capsys):
    from cli.compare_train import last_checkpoint

    made, _, _ = parse_plan(["--config", str(whole / "plan.yaml")])
    run = last_checkpoint(made.folder("CT")).parents[1]
    changed = plan(tmp_path / "taken", methods={"mine": {"run": str(run), "steps": [1]}})
    assert main(["compare", "--config", str(changed)]) == 0
    mine = rows_of(tmp_path / "taken", "mine")
    assert [r["values"] for r in mine] == [r["values"] for r in rows_of(whole, "CT")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": {"CT": {"steps": [1]}}}, "either a config or a run"),
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


def test_a_failed_training_is_told(tmp_path, capsys):
    method = {"config": "ct.yaml", "steps": [1], "options": ["--model.init_args.optimizer.init_args.lr=-1"]}
    assert main(["compare", "--config", str(plan(tmp_path / "failed", methods={"CT": method}))]) == 2
    said = capsys.readouterr().err
    assert "CT: its training ended early (exit code 2)" in said and "learning rate" in said


def test_shipped_comparisons_are_of_equal_networks_and_budgets():
    for path in (ROOT / "configs").glob("compare*.yaml"):
        made, _, _ = parse_plan(["--config", str(path)])
        files = [entry_config(entry) for entry in made.methods.values()]
        networks = [yaml.safe_load(file.read_text())["model"]["init_args"]["network"] for file in files]
        widths = {yaml.safe_load((ROOT / "configs" / name).read_text())["init_args"]["width"] for name in networks}
        assert len(widths) == 1 and made.total_images
