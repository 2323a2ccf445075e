"""The benchmark of mode coverage: its score on sets whose modes are known, its methods, and what it writes."""

import json

import pytest
import torch

from benchmarks import modes
from benchmarks.modes import GRID, METHODS, score
from datamodules.toy import GaussianGrid


def data(n=10_000, seed=0, grid=GRID):
    return grid.sample(n, torch.Generator().manual_seed(seed))


def test_data_cover_every_mode():
    """Within three standard deviations of a 2-D Gaussian: 1 - exp(-9/2) = 98.89 %."""
    of_data = score(data())
    assert of_data.modes == 25 and of_data.near == pytest.approx(0.9889, abs=0.004)
    assert of_data.imbalance < 0.003 and of_data.sw < 0.03


def test_a_lost_mode_and_one_point_are_seen():
    points = data()
    mode = torch.cdist(points, GRID.means).argmin(1)
    lost = score(points[mode != 7])
    assert lost.modes == 24 and lost.imbalance > 0.03 and lost.sw > score(points).sw
    one = score(points[:1].expand(1000, 2))
    assert one.modes == 1 and one.imbalance == pytest.approx(3.2189, abs=1e-3)


def test_a_mode_of_few_samples_is_not_covered():
    points, mode = data(), torch.cdist(data(), GRID.means).argmin(1)
    kept = (mode != 3) | (torch.cumsum(mode == 3, 0) <= 15)
    assert score(points[kept]).modes == 24


def test_samples_between_the_modes_are_not_near():
    blurred = score(data(grid=GaussianGrid(std=0.2)))
    assert blurred.near < 0.6 and blurred.modes == 25


def test_all_methods_have_the_same_generator():
    built = {name: make(1024, 0) for name, make in METHODS.items()}
    assert len({sum(p.numel() for p in m.denoiser.parameters()) for m in built.values()}) == 1
    assert built["GAN"].schedules == [(80.0,)] and built["GAN"].reconstruction_weight == 0
    assert {name for name, m in built.items() if m.ladder.steps == 1} == {"GAN", "SIDDM, one rung", "DDGAN, one rung"}


def test_two_processes_find_what_one_does(tmp_path):
    def runs(jobs):
        path = tmp_path / f"{jobs}.json"
        words = ["--images", "256", "--seeds", "0", "--points", "100", "--methods", "UFOGen", "SIDDM, one rung"]
        modes.main([*words, "--jobs", jobs, "--json", str(path)])
        return [(r["method"], r["steps"], r["score"]) for r in json.loads(path.read_text())["runs"]]

    assert runs("2") == runs("1") and len(runs("1")) == 3


def test_a_run_writes_its_table(tmp_path, capsys):
    words = ["--images", "512", "--seeds", "0", "1", "--points", "200", "--methods", "UFOGen", "GAN"]
    modes.main([*words, "--json", str(tmp_path / "modes.json"), "--figure", str(tmp_path / "modes.png")])
    result = json.loads((tmp_path / "modes.json").read_text())
    assert [(r["method"], r["seed"], r["steps"]) for r in result["runs"]] == [
        ("UFOGen", 0, 1),
        ("UFOGen", 0, 4),
        ("GAN", 0, 1),
        ("UFOGen", 1, 1),
        ("UFOGen", 1, 4),
        ("GAN", 1, 1),
    ]
    assert "PATH" in result["command"] and result["data"]["modes"] == 25
    assert (tmp_path / "modes.png").stat().st_size > 1000
    assert "5x5 Gaussians" in capsys.readouterr().out
