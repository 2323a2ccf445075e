"""A run as a cluster starts it: by torchrun's and SLURM's variables, by the job script, and stopped by its signal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from small_runs import config
from test_resume import assert_same_training_state

from cli.checkpoints import VerifiedCheckpointIO, first_process, newest_checkpoint
from lightning_modules.checkpoint import CheckpointError, read_checkpoint
from main import main

ROOT = Path(__file__).parents[1]
TORCHRUN = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0}
TORCHRUN["TORCHELASTIC_RUN_ID"] = "test"
SLURM = {"SLURM_PROCID": 0, "SLURM_LOCALID": 0, "SLURM_NODEID": 0, "SLURM_NTASKS": 4, "SLURM_NTASKS_PER_NODE": 2}


DDP = ["--trainer.devices=3", "--trainer.strategy=ddp"]


@pytest.mark.parametrize(
    ("variables", "named", "options"), [(TORCHRUN, "torchrun", []), (SLURM, "SLURM", []), (TORCHRUN, "devices=3", DDP)]
)
def test_processes_that_the_trainer_does_not_know_of(variables, named, options, tmp_path, monkeypatch, capsys):
    """Each would train by itself in one directory; they are told how to train together, and no directory is left."""
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config()))
    command = ["fit", "--config", str(tmp_path / "run.yaml"), f"--trainer.default_root_dir={tmp_path}/runs", *options]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and named in said
    if not options:
        assert "--trainer.devices 2 --trainer.num_nodes 2 --trainer.strategy ddp" in said
    assert not list(tmp_path.glob("runs/*/*"))


def test_tasks_that_are_not_told_by_host(tmp_path, monkeypatch, capsys):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config()))
    assert main(["fit", "--config", str(tmp_path / "run.yaml"), f"--trainer.default_root_dir={tmp_path}/runs"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "--ntasks-per-node=4" in said


def test_the_first_process_of_another_host_is_not_the_first(monkeypatch):
    assert first_process()
    monkeypatch.setenv("NODE_RANK", "1")
    assert not first_process()


def test_a_named_directory(tmp_path, capsys):
    """The same command starts a run, does nothing to a finished one, and makes it longer; few checkpoints are kept."""
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config("CTModule", images=256)))
    directory = tmp_path / "here" / "and there"
    command = ["fit", "--config", str(tmp_path / "run.yaml"), "--run_directory", str(directory)]
    assert main(command) == 0 and "trained on 256 images" in capsys.readouterr().out
    assert main(command) == 0 and "trained on" not in capsys.readouterr().out
    assert main([*command, "--model.init_args.total_images=384"]) == 0
    assert read_checkpoint(directory / "checkpoints" / "last.ckpt")["images_seen"] == 384
    names = {p.name for p in (directory / "checkpoints").glob("*.ckpt")}
    assert names == {"images_000000000320.ckpt", "images_000000000384.ckpt", "last.ckpt"}
    assert (directory / "config.yaml").is_file() and not (tmp_path / "runs").exists()


def test_a_named_directory_outlives_a_start_that_fails(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config("CTModule", init_from="gone.ckpt")))
    assert main(["fit", "--config", str(tmp_path / "run.yaml"), "--run_directory", str(tmp_path / "mine")]) == 2
    assert (tmp_path / "mine" / "notes.txt").read_text() == "kept"
    capsys.readouterr()
    assert main(["fit", "--run_directory", str(tmp_path / "run.yaml")]) == 2
    assert "this is no directory" in capsys.readouterr().err


def test_the_newest_checkpoint_that_can_be_read(tmp_path, capsys):
    """By the count in its name, not by its time; a damaged one is told."""
    run, older, newer = tmp_path, *(tmp_path / "checkpoints" / f"images_{n:012d}.ckpt" for n in (9, 10))
    for path in (newer, older):
        VerifiedCheckpointIO().save_checkpoint({"state_dict": {}}, path)
    os.utime(older, (time.time() + 1e6,) * 2)
    assert newest_checkpoint(run) == newer and newest_checkpoint(tmp_path / "none") is None
    newer.write_bytes(b"damaged")
    capsys.readouterr()
    assert newest_checkpoint(run) == older
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "cannot be read" in said and f"{older} is used" in said
    older.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="cannot be read"):
        newest_checkpoint(run)


SRUN = """#!/usr/bin/env bash
# two tasks on one host
export SLURM_NTASKS=2 SLURM_NODEID=0
for task in 0 1; do
    SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & echo $! >> "$TASKS"
done
highest=0
for task in $(jobs -p); do
    wait "$task" || { code=$?; [ "$code" -gt "$highest" ] && highest=$code; }
done
exit "$highest"
"""


@pytest.mark.slow
def test_the_job_script(tmp_path):
    """With commands in the place of SLURM's: both tasks get SIGUSR1, and the job, queued again, comes to the weights of
    one that had the time."""
    bin = tmp_path / "bin"
    bin.mkdir()
    for name, text in {"srun": SRUN, "scontrol": f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol.txt\n'}.items():
        (bin / name).write_text(text)
        (bin / name).chmod(0o755)
    content = config("UFOGenModule", images=64 * 400)
    content["checkpoints"]["every_n_images"] = 64 * 20
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(content))
    environment = {
        **os.environ,
        "PATH": f"{bin}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",
        "RUNS": str(tmp_path / "runs"),
        "TASKS": str(tmp_path / "tasks.txt"),
        "SLURM_NNODES": "1",
        "SLURM_NTASKS_PER_NODE": "2",
    }

    def job(number):
        command = ["bash", str(ROOT / "cluster" / "train.sbatch"), str(tmp_path / "small.yaml")]
        log = (tmp_path / f"job_{number}.txt").open("a")
        return subprocess.Popen(
            command, cwd=ROOT, env={**environment, "SLURM_JOB_ID": str(number)}, stdout=log, stderr=log
        )

    def last(number):
        return tmp_path / "runs" / "small" / f"job_{number}" / "checkpoints" / "last.ckpt"

    warned = job(4321)
    deadline = time.monotonic() + 600
    while not last(4321).exists():
        assert time.monotonic() < deadline and warned.poll() is None, (tmp_path / "job_4321.txt").read_text()
        time.sleep(0.01)
    for task in (tmp_path / "tasks.txt").read_text().split():
        os.kill(int(task), signal.SIGUSR1)
    assert warned.wait(600) == 138, (tmp_path / "job_4321.txt").read_text()
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 4321\n"
    assert read_checkpoint(last(4321))["images_seen"] < 64 * 400
    assert job(4321).wait(600) == 0, (tmp_path / "job_4321.txt").read_text()
    assert job(5555).wait(600) == 0
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 4321\n"
    assert not list(tmp_path.rglob("hpc_ckpt*"))
    assert_same_training_state(read_checkpoint(last(4321)), read_checkpoint(last(5555)))
