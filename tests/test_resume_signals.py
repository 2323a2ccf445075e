"""A process that is told to stop saves, says how to go on, and exits with the signal's code."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from small_runs import config, fit
from test_resume import assert_same_training_state, resumed_from

from lightning_modules.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_in_the_middle(number, code, tmp_path):
    """kill -TERM and Ctrl-C: exit code, checkpoint, and a resumed run equal to the unbroken one."""
    # a grid that does not follow progress, so that the length of the run may be changed below
    grid = {"steps": {"class_path": "diffusion.curricula.ConstantSteps", "init_args": {"n": 8}}}
    content = config(images=64 * 2000, pairs={"class_path": "diffusion.pairs.GridPairs", "init_args": grid})
    content["checkpoints"]["every_n_images"] = 64 * 20
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    command = [sys.executable, "main.py", "fit", "--config", str(tmp_path / "run.yaml")]
    process = subprocess.Popen(
        [*command, f"--trainer.default_root_dir={tmp_path}/stopped"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 300  # a busy machine may take a minute to import
    while not list(tmp_path.glob("stopped/*/*/checkpoints/last.ckpt")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == code, said
    assert "Traceback" not in said
    (last,) = tmp_path.glob("stopped/*/*/checkpoints/last.ckpt")
    assert re.search(rf"to go on:\n  python main.py fit --ckpt_path {last}\n", said)
    stopped_at = read_checkpoint(last)["images_seen"]
    assert 64 * 20 <= stopped_at < 64 * 2000
    if number == signal.SIGTERM:
        content["model"]["init_args"]["total_images"] = total = stopped_at + 64 * 10
        unbroken = fit(tmp_path, content)
        resumed = resumed_from(last, tmp_path, f"--model.init_args.total_images={total}")
        assert_same_training_state(resumed, read_checkpoint(unbroken / "checkpoints" / "last.ckpt"))
