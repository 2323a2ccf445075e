"""The disk is full in the middle of a save: one line, and the checkpoint before is whole."""

import errno
import os
import subprocess

import pytest
from processes import Run, last_of, quiet_options, until, write_config
from small_runs import config
from test_resume import assert_same_training_state

from lightning_modules.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "fewstep-test", str(folder)]
    if os.name != "posix" or os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk, and not in every container")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def run_of(folder, steps=200):
    content = config("CTModule", images=64 * steps)
    content["model"]["init_args"]["pairs"]["init_args"]["steps"] = {
        "class_path": "diffusion.curricula.ConstantSteps",
        "init_args": {"n": 8},
    }
    content["checkpoints"]["every_n_images"] = 64 * 10
    return write_config(folder, content)


def fill(folder):
    """Write until nothing fits; the file."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(b"0" * 4096) == 4096:
                pass
        except OSError as error:
            assert error.errno == errno.ENOSPC
    return filler


def assert_told_in_one_line(code, said):
    assert code == 1, said
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in said, said
    return errors[0]


def test_the_disk_is_full(small_disk, tmp_path):
    """And when there is room again, the same command comes to the weights of a run that nothing disturbed."""
    path, directory = run_of(tmp_path), small_disk / "run"
    run = Run(quiet_options(path, directory), tmp_path / "log.txt")
    until(last_of(directory).exists, run)
    filler = fill(small_disk)
    code, said = run.wait()
    assert "no space left" in assert_told_in_one_line(code, said).lower()
    assert not list(directory.glob("checkpoints/*.part"))
    stopped_at = read_checkpoint(last_of(directory))["images_seen"]
    assert 0 < stopped_at < 64 * 200 and f"fit --ckpt_path {last_of(directory)}" in said
    filler.unlink()
    code, said = Run(quiet_options(path, directory), tmp_path / "again.txt").wait()
    assert code == 0, said
    whole = tmp_path / "whole"
    assert Run(quiet_options(path, whole), tmp_path / "whole.txt").wait()[0] == 0
    assert_same_training_state(read_checkpoint(last_of(directory)), read_checkpoint(last_of(whole)))


def test_a_file_may_not_be_as_large(tmp_path):
    """A quota, without root: RLIMIT_FSIZE, below the size of a checkpoint. The start says what happened."""
    path, directory = run_of(tmp_path), tmp_path / "run"
    code, said = Run(quiet_options(path, directory), tmp_path / "log.txt", largest_file=20_000).wait()
    line = assert_told_in_one_line(code, said)
    assert "images_000000000640.ckpt" in line and "file too large" in line.lower()
    assert not list(directory.glob("checkpoints/*"))
