"""FSDP2 on two processes with gloo: what one process computes, and checkpoints that know nothing of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from small_runs import ADVERSARIAL, DISTILLED, MODULES, PAIRS_OF_A_TEACHER, config, fit
from test_resume import DECAY, middle_and_last

from lightning_modules import load_denoiser
from lightning_modules.checkpoint import read_checkpoint
from main import main

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
SHARDED = ["--trainer", "configs/trainer/fsdp.yaml", "--trainer.accelerator=cpu", "--trainer.devices=2"]
ONE_NETWORK = [name for name in MODULES if name not in ADVERSARIAL]


def sharded(folder, *options):
    """`fit` on two processes that divide the weights: its exit code, what it said, and its run's directory if it has
    one."""
    process = subprocess.run(
        [sys.executable, "main.py", "fit", *options, *SHARDED, f"--trainer.default_root_dir={folder}"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    return process.returncode, process.stdout + process.stderr, next(iter(folder.glob("*/*")), None)


def assert_close(first, second):
    """Weights and moments of two checkpoints are equal within 1e-4, and plain tensors of the same places."""
    for name, weights in first["state_dict"].items():
        found = second["state_dict"][name]
        assert type(found) is type(weights)
        if isinstance(weights, torch.Tensor):
            torch.testing.assert_close(found, weights, rtol=0, atol=1e-4, msg=name)
        else:
            assert found == weights
    for mine, theirs in zip(first["optimizer_states"], second["optimizer_states"], strict=True):
        assert mine["state"].keys() == theirs["state"].keys() and mine["param_groups"] == theirs["param_groups"]
        for i, values in mine["state"].items():
            for name, value in values.items():
                torch.testing.assert_close(theirs["state"][i][name], value, rtol=0, atol=1e-4, msg=f"{name} of {i}")
    assert first["images_seen"] == second["images_seen"] and first["loops"].keys() == second["loops"].keys()


def compare(tmp_path, content):
    """Train on one process and on two that divide the weights; the two runs' directories."""
    alone = fit(tmp_path, content)
    code, said, together = sharded(tmp_path / "two", "--config", str(tmp_path / "small.yaml"))
    assert code == 0, said
    assert said.count("device:   2 x cpu") == 1 and said.count("trained on ") == 1
    assert_close(*(read_checkpoint(run / "checkpoints" / "last.ckpt") for run in (alone, together)))
    return alone, together


def test_validated_and_drawn_on_the_way(tmp_path):
    """Averages, a schedule, clipping; 360 validation images in batches of 62; and what goes on on one process."""
    content = config("BCMModule", ema_rates=[0.99, 0.9], lr_factor=DECAY)
    content["trainer"] |= {"val_check_interval": 3, "gradient_clip_val": 0.5}
    content["data"]["init_args"]["batch_size"] = 62
    alone, together = compare(tmp_path, content)
    x, sigma = torch.randn(4, 1, 8, 8), torch.full((4,), 2.0)
    first, second = (load_denoiser(run / "checkpoints" / "last.ckpt") for run in (alone, together))
    torch.testing.assert_close(second(x, sigma), first(x, sigma), rtol=0, atol=1e-4)

    middle, last = middle_and_last(together)
    one = ["--trainer.strategy=auto", "--trainer.devices=1", f"--trainer.default_root_dir={tmp_path}/on"]
    assert main(["fit", "--ckpt_path", str(middle), *one]) == 0
    (on,) = (tmp_path / "on").glob("*/*/checkpoints/last.ckpt")
    assert_close(read_checkpoint(on), last)
    code, said, back = sharded(tmp_path / "back", "--ckpt_path", str(middle_and_last(alone)[0]))
    assert code == 0, said
    assert_close(read_checkpoint(back / "checkpoints" / "last.ckpt"), last)


@pytest.mark.parametrize("module", [name for name in ONE_NETWORK if name != "BCMModule"])
def test_methods_of_one_network(module, teacher, flow, tmp_path):
    """With their targets, teachers and frozen passes; RAdam for one of them."""
    given = {"teacher": teacher} if module in DISTILLED else {}
    if module == "RectifiedFlowModule":
        given = {"teacher": flow, "pairs": PAIRS_OF_A_TEACHER}
    if module == "CDModule":
        given |= {"target_rate": 0.9, "optimizer": {"class_path": "lightning_modules.RAdam", "init_args": {"lr": 1e-3}}}
    if module == "CTMModule":
        given["adaptive"] = False
    compare(tmp_path, config(module, images=64 * 12, **given))


def test_a_convolutional_network_that_starts_from_another(tmp_path):
    """Nested blocks, dropout in none, and weights that are read when they are divided already."""
    content = config("CTModule", images=64 * 4)
    network = {"channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attention_resolutions": [4]}
    content["model"]["init_args"]["network"] = {"class_path": "networks.UNet", "init_args": network}
    start = fit(tmp_path, content, name="start")
    content["model"]["init_args"]["init_from"] = str(start / "checkpoints" / "last.ckpt")
    compare(tmp_path, content)


def test_what_cannot_be_divided_is_told(tmp_path):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config("UFOGenModule")))
    code, said, run = sharded(tmp_path / "runs", "--config", str(tmp_path / "run.yaml"))
    assert code == 2 and "FullySharded takes methods of one network, and a UFOGenModule has two" in said
    assert "Traceback" not in said and run is None
