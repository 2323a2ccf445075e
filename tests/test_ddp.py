"""Two processes train as one does at the same global batch."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from small_runs import DISTILLED, MODULES, PAIRS_OF_A_TEACHER, config, fit
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_modules.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[1]


def loss_curve(run):
    """(images seen, loss) of every step."""
    return [(point.step, point.value) for point in EventAccumulator(str(run)).Reload().Scalars("train/loss")]


def start(tmp_path, content):
    """`fit` of a config on two processes; its runs lie in tmp_path/two."""
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(content))
    options = ["--trainer.devices=2", "--trainer.strategy=ddp", f"--trainer.default_root_dir={tmp_path}/two"]
    return subprocess.Popen(
        [sys.executable, "main.py", "fit", "--config", str(tmp_path / "two.yaml"), *options],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_of(module, teacher, flow):
    """Rectified flow as reflow, the diffusion model with some of its labels left out: what else is drawn is drawn."""
    given = {"teacher": teacher} if module in DISTILLED else {}
    if module == "RectifiedFlowModule":
        given = {"teacher": flow, "pairs": PAIRS_OF_A_TEACHER}
    if module == "DiffusionModule":
        given = {"label_dropout": 0.3}
    content = config(module, images=64 * 12, **given)
    content["data"]["init_args"]["conditional"] = module == "DiffusionModule"
    return content


@pytest.mark.parametrize("module", [name for name in MODULES if name != "CTModule"])  # CDModule has its parts
def test_two_processes_train_on_the_digits(module, teacher, flow, tmp_path):
    """gloo on the CPU: the same loss curve and weights within float error, one run's directory, one report."""
    content = run_of(module, teacher, flow)
    content["curves"] = {"every_n_images": 64}
    alone = fit(tmp_path, content)

    process = start(tmp_path, content)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert said.count("device:   2 x cpu") == said.count("trained on 768 images") == 1
    (together,) = (tmp_path / "two").glob("*/*")
    assert len(list(together.glob("events.*"))) == 1 and (together / "config.yaml").is_file()

    expected, found = loss_curve(alone), loss_curve(together)
    assert [step for step, _ in found] == [step for step, _ in expected] and len(found) >= 11
    assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-4)
    first, second = (read_checkpoint(run / "checkpoints" / "last.ckpt") for run in (alone, together))
    assert second["images_seen"] == 768
    for name, weights in first["state_dict"].items():
        torch.testing.assert_close(second["state_dict"][name], weights, rtol=0, atol=1e-4, msg=name)


def test_two_processes_stop_at_the_same_step(tmp_path):
    """SIGTERM to the first alone. Lightning's own handler broadcasts out of turn, and both may wait for ever."""
    content = config("CTModule", images=64 * 10_000)
    content["checkpoints"]["every_n_images"] = 64 * 20
    process = start(tmp_path, content)
    deadline = time.monotonic() + 600
    while not list(tmp_path.glob("two/*/*/checkpoints/last.ckpt")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 143, said
    (last,) = tmp_path.glob("two/*/*/checkpoints/last.ckpt")
    assert f"fit --ckpt_path {last}" in said and "Traceback" not in said
    assert read_checkpoint(last)["images_seen"] >= 64 * 20
