"""Two processes train as one does at the same global batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from small_runs import config, fit
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_modules.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[1]


def loss_curve(run):
    """(images seen, loss) of every step."""
    return [(point.step, point.value) for point in EventAccumulator(str(run)).Reload().Scalars("train/loss")]


def test_two_processes_train_bcm_on_the_digits(tmp_path):
    """gloo on the CPU: the same loss curve and weights within float error, one run's directory, one report."""
    content = config("BCMModule", images=64 * 12)
    content["curves"] = {"every_n_images": 64}
    alone = fit(tmp_path, content)

    (tmp_path / "two.yaml").write_text(yaml.safe_dump(content))
    options = ["--trainer.devices=2", "--trainer.strategy=ddp", f"--trainer.default_root_dir={tmp_path}/two"]
    done = subprocess.run(
        [sys.executable, "main.py", "fit", "--config", str(tmp_path / "two.yaml"), *options],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("device:   2 x cpu") == done.stdout.count("trained on 768 images") == 1
    (together,) = (tmp_path / "two").glob("*/*")
    assert len(list(together.glob("events.*"))) == 1 and (together / "config.yaml").is_file()

    expected, found = loss_curve(alone), loss_curve(together)
    assert [step for step, _ in found] == [step for step, _ in expected] and len(found) >= 11
    assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-4)
    first, second = (read_checkpoint(run / "checkpoints" / "last.ckpt") for run in (alone, together))
    assert second["images_seen"] == 768
    for name, weights in first["state_dict"].items():
        torch.testing.assert_close(second["state_dict"][name], weights, rtol=0, atol=1e-4, msg=name)
