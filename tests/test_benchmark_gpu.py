"""What runs where a GPU is lent: the checks, here on the CPU, and the script's commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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
    """Every training of `gpu.sh` on a few images on the CPU; the networks are as the script has them."""
    import numpy as np
    from PIL import Image

    images = tmp_path / "images"
    images.mkdir()
    for i in range(4):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)).save(images / f"{i}.png")
    script = Path(gpu_checks.__file__).with_name("gpu.sh").read_text()
    script = script.replace(
        '"${network[@]}"',
        '"${network[@]}" --trainer=configs/trainer/cpu.yaml --grids.seeds=1 --data.init_args.batch_size=2',
    )
    script = script.replace("compile=true", "compile=false").replace("0-63", "0-1")
    (changed := Path(gpu_checks.__file__).with_name("gpu_test.sh")).write_text(script)
    try:
        out, runs = tmp_path / "out", tmp_path / "runs"
        environment = os.environ | {"DATA": str(images), "OUT": str(out), "RUNS": str(runs), "IMAGES": "2"}
        environment |= {"PYTHON": sys.executable}
        for _ in range(2):
            subprocess.run(["bash", changed, "diffusion", "ct", "bcm", "cd", "ufogen"], env=environment, check=True)
    finally:
        changed.unlink()
    names = {path.name for path in out.glob("*.png")}
    assert names == {"gpu_diffusion_17.png", "gpu_ufogen_1.png", "gpu_ufogen_4.png"} | {
        f"gpu_{method}_{steps}.png" for method in ("ct", "bcm", "cd") for steps in (1, 2)
    }
