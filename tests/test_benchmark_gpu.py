"""What runs where a GPU is lent: the checks, here on the CPU, and the script's commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import gpu_checks
from benchmarks.ours import METHODS, Variant
from benchmarks.shapes import Shape

TINY = Shape(8, 8, (1, 2), 1, (4,), 8, batch_size=2)
CPU = torch.device("cpu")


@pytest.mark.parametrize("method", METHODS)
def test_a_method_agrees_with_itself_and_rounding_is_seen(method):
    exact, last, rounded = gpu_checks.check(method, TINY, ["float32", "channels_last", "bfloat16"], CPU, 2)
    assert exact.loss == exact.gradient == exact.samples == 0
    assert last.passed and last.gradient < 1e-4
    assert 1e-4 < rounded.gradient < 0.1 and rounded.passed


def test_another_result_is_found(monkeypatch, tmp_path, capsys):
    """A device whose convolutions are off by a percent."""
    wrong = Variant(channels_last=True)
    monkeypatch.setitem(gpu_checks.VARIANTS, "channels_last", (wrong, 1e-3))
    monkeypatch.setitem(gpu_checks.SHAPES, "small", TINY)
    run, out = gpu_checks.results, tmp_path / "checks.json"

    def off(method, shape, variant, *others):
        return tuple(y * (1.01 if variant is wrong else 1) for y in run(method, shape, variant, *others))

    monkeypatch.setattr(gpu_checks, "results", off)
    options = ["--device", "cpu", "--methods", "ct", "--variants", "float32", "channels_last", "--json", str(out)]
    assert gpu_checks.main(options) == 1
    assert "channels_last: loss 1.0e-02" in capsys.readouterr().out
    assert [row["passed"] for row in json.loads(out.read_text())["checks"]] == [True, False]


@pytest.mark.slow
def test_the_script_trains_and_goes_on(tmp_path):
    """Every training of `gpu.sh` on CIFAR-10's kind of images, of which it sees two, on the CPU."""
    rng, data = np.random.default_rng(0), tmp_path / "data" / "cifar10"
    for split in ("train", "test"):
        (data / split).mkdir(parents=True)
        for i in range(40):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(data / split / f"{i}.png")
    out, runs = tmp_path / "out", tmp_path / "runs"
    small = "--trainer.accelerator=cpu --trainer.precision=32-true --data.init_args.batch_size=2 --grids.seeds=1"
    environment = os.environ | {
        "DATA": str(data.parent),
        "OUT": str(out),
        "RUNS": str(runs),
        "OPTIONS": f"{small} --model.init_args.total_images=2",
        "TEST": "--trainer.accelerator=cpu --trainer.precision=32-true --scores.num_images=20 --scores.steps=[1]",
        "SEEDS": "0-1",
        "PYTHON": sys.executable,
        "TORCHDYNAMO_DISABLE": "1",  # configs compile
    }
    methods = ("diffusion", "ct", "bcm", "cd", "ufogen")
    for _ in range(2):
        stages = [f"{method}_cifar10" for method in methods]
        subprocess.run(["bash", Path(gpu_checks.__file__).with_name("gpu.sh"), *stages], env=environment, check=True)
    names = {path.name for path in out.iterdir()}
    pictures = {"diffusion_cifar10_17", "ufogen_cifar10_1", "ufogen_cifar10_4"}
    pictures |= {f"{method}_cifar10_{steps}" for method in ("ct", "bcm", "cd") for steps in (1, 2)}
    assert names == {f"gpu_{name}.png" for name in pictures} | {f"gpu_{m}_cifar10_scores.json" for m in methods}
