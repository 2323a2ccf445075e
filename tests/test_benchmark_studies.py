"""The studies' plans can be read and differ in what they say; their tables are those of compare.json."""

import json
from pathlib import Path

import pytest
import yaml

from benchmarks import amplified, studies
from benchmarks.amplified import Row
from cli.compare_plan import parse_plan
from evaluation.variations import ADDED, AMPLIFIED, Variation

ROOT = Path(__file__).parents[1]
PLANS = sorted(path for path in (ROOT / "configs" / "studies").glob("*.yaml") if path.stem != "mnist")
SPREAD = {"mean": 0.5, "std": 0.1, "least": 0.4, "values": [0.4, 0.6]}


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
@pytest.mark.parametrize("mnist", [False, True])
def test_a_study_trains_one_thing_changed(path, mnist):
    other = ["--config", str(path.with_name("mnist.yaml")), "--root", "x", "--options+=--data.init_args.path=y"]
    plan, _, _ = parse_plan(["--config", str(path), *(other if mnist else [])])
    trained = [name for name, entry in plan.methods.items() if entry.trained]
    folders = {plan.folder(training) for name in trained for training in plan.trainings(name)}
    assert len(folders) == 3 * len(trained)
    assert {folder.parent for folder in folders} == {Path("runs/studies", "mnist" if mnist else "digits", "trainings")}
    assert {plan.config(name).name for name in trained} == {"bcm_mnist.yaml" if mnist else "bcm.yaml"}
    assert f"configs/studies/{path.name}" in path.read_text()  # its command


def test_baselines_are_shared():
    """What is called BCM is the base itself, so that every study finds the same trainings."""
    plans = [parse_plan(["--config", str(path)])[0] for path in PLANS]
    found = {plan.folder(plan.trainings("BCM")[0]) for plan in plans if "BCM" in plan.methods}
    assert len(found) == 1


def test_the_options_of_a_study_are_arguments_of_fit(tmp_path, capsys):
    """A run of no images is refused, and for that reason alone."""
    from main import main

    plans = [parse_plan(["--config", str(path)])[0] for path in PLANS]
    entries = [(plan, name) for plan in plans for name, entry in plan.methods.items() if entry.trained]
    for options in {(*plan.options, *plan.methods[name].options) for plan, name in entries}:
        fit = ["fit", "--config", str(ROOT / "configs" / "bcm.yaml"), *options, "--model.init_args.total_images=0"]
        code = main([*fit, f"--trainer.default_root_dir={tmp_path}"])
        assert code == 2 and "total_images=0" in capsys.readouterr().err, options


def test_tables():
    values = {
        name: SPREAD for name in ("fd_digits", "recall_digits", "fd_digits_judges", "share_digits/0", "kd_digits")
    }
    rows = [
        {"method": "A", "steps": 1, "reference": "train", "values": values},
        {"method": "A", "steps": 1, "reference": "test", "values": {"fd_digits": {**SPREAD, "values": [0.4]}}},
        {"method": "real: test", "steps": None, "reference": "train", "values": values},
    ]
    assert studies.scores_table({"rows": rows}).splitlines() == [
        "| method | NFE | fd_digits, train | fd_digits, test | recall_digits |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| A | 1 | 0.5 ± 0.1 | 0.5 | 0.5 ± 0.1 |",
    ]
    way = {
        "method": "A",
        "levels": [0.0, 80.0],
        "values": dict.fromkeys(("error", "denoising_error", "noise_ratio"), SPREAD),
    }
    assert "| A | 0 > 80 | 0.5 ± 0.1 | 0.5 ± 0.1 | 0.5 ± 0.1 |" in studies.inversions_table({"inversions": [way]})
    assert studies.inversions_table({"inversions": []}) == ""


def test_the_command_prints_them(tmp_path, capsys):
    row = {"method": "A", "steps": 1, "values": {"fd_digits": SPREAD}}
    content = {
        "rows": [{**row, "reference": split} for split in ("train", "test")],
        "inversions": [],
        "failed": {"B, seed 1": "it fell"},
    }
    (tmp_path / "compare.json").write_text(json.dumps(content))
    studies.main([str(tmp_path / "compare.json")])
    said = capsys.readouterr().out
    assert "| A | 1 | 0.5 ± 0.1 |" in said and "B, seed 1 has no scores: it fell" in said


def test_amplified_rows_are_means_over_trainings():
    from rich.console import Console

    def made(noise, small, error):
        return Variation(noise, small, 1.0, error, 2.0, {"fd_digits": 0.25})

    rows = [Row("BCM", seed, made(AMPLIFIED, 0.1, 0.1 + seed)) for seed in (0, 1)]
    rows += [Row("BCM", seed, made(ADDED, None, 3.0)) for seed in (0, 1)]
    console = Console(width=100, record=True)
    console.print(amplified.table(rows, "fd_digits"))
    said = console.export_text()
    assert "amplified from 0.1" in said and "0.6" in said and "means over 2 trainings" in said


def test_the_amplified_study_runs(tmp_path):
    """On a network of a few thousand parameters."""
    from small_runs import config

    (tmp_path / "bcm.yaml").write_text(yaml.safe_dump(config("BCMModule")))
    plan = {"root": str(tmp_path / "out"), "total_images": 64, "methods": {"BCM": {"config": "bcm.yaml", "steps": [1]}}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    out = tmp_path / "amplified.json"
    amplified.main(["--config", str(tmp_path / "plan.yaml"), "--small", "0.1", "--large", "1", "2", "--json", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert [(r["variation"]["noise"], r["variation"]["large"]) for r in rows] == [
        (AMPLIFIED, 1.0), (AMPLIFIED, 2.0), (ADDED, 1.0), (ADDED, 2.0)
    ]  # fmt: skip
