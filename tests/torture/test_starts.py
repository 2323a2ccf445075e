"""Two starts at the same moment, clocks that are wrong, and other seeds than the checkpoint's."""

import os
import time

import pytest
from processes import Run, free_port, last_of, quiet_options, until, write_config
from small_runs import config
from test_resume import assert_same_training_state, middle_and_last

from lightning_modules.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    content = config("CTModule", images=64 * 60)
    content["checkpoints"] |= {"every_n_images": 64 * 10, "keep": 3}
    return write_config(tmp_path_factory.mktemp("config"), content)


@pytest.fixture(scope="module")
def whole(path, tmp_path_factory):
    """The directory of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    assert Run(quiet_options(path, folder / "run"), folder / "log.txt").wait()[0] == 0
    return folder / "run"


def test_two_runs_of_one_name(path, whole, tmp_path):
    """Each gets a number of its own, and neither writes into the other's."""
    options = ["--config", str(path), f"--trainer.default_root_dir={tmp_path}/runs"]
    runs = [Run(options, tmp_path / f"{i}.txt") for i in range(4)]
    assert [run.wait()[0] for run in runs] == [0] * 4
    assert sorted(p.name for p in (tmp_path / "runs" / "run").iterdir()) == ["000", "001", "002", "003"]
    for directory in (tmp_path / "runs" / "run").iterdir():
        assert len(list(directory.glob("events.*"))) == 1
        assert_same_training_state(read_checkpoint(last_of(directory)), read_checkpoint(last_of(whole)))


def test_two_runs_in_one_directory(path, whole, tmp_path):
    """One trains; the other says so and leaves."""
    runs = [Run(quiet_options(path, tmp_path / "one"), tmp_path / f"{i}.txt") for i in range(2)]
    ended = sorted(run.wait() for run in runs)
    assert [code for code, _ in ended] == [0, 2]
    assert ended[1][1].count("\n") == 1 and "another process trains there" in ended[1][1]
    assert_same_training_state(read_checkpoint(last_of(tmp_path / "one")), read_checkpoint(last_of(whole)))


def test_two_hosts_on_which_lightning_starts_the_processes(path, tmp_path):
    """NODE_RANK and no RANK: the second host's first process is not the first of the run."""
    options = ["--config", str(path), f"--trainer.default_root_dir={tmp_path}/runs"]
    options += ["--trainer.num_nodes=2", "--trainer.devices=1", "--trainer.strategy=ddp"]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    runs = [Run(options, tmp_path / f"{i}.txt", {"NODE_RANK": str(i), **address}) for i in (0, 1)]
    ended = [run.wait() for run in runs]
    assert [code for code, _ in ended] == [0, 0], ended
    assert [p.name for p in (tmp_path / "runs" / "run").iterdir()] == ["000"]
    assert [said.count("trained on ") for _, said in ended] == [1, 0]


@pytest.mark.parametrize("shift", [-(10**8), 10**8], ids=["past", "future"])
def test_file_times_are_wrong(shift, path, whole, tmp_path):
    """The newest checkpoint is the one with the most images, whatever its file's time is."""
    directory = tmp_path / "run"
    run = Run(quiet_options(path, directory), tmp_path / "log.txt")
    until(lambda: len(list(directory.glob("checkpoints/images_*.ckpt"))) >= 3, run)
    run.signal(9)
    run.wait()
    for i, file in enumerate(sorted(directory.rglob("*"), reverse=True)):
        os.utime(file, (time.time() + shift + 100 * i,) * 2)
    code, said = Run(quiet_options(path, directory), tmp_path / "again.txt").wait()
    assert code == 0, said
    assert_same_training_state(read_checkpoint(last_of(directory)), read_checkpoint(last_of(whole)))


def test_the_clock_goes_backwards(path, whole, tmp_path):
    """In the run and in its resumption."""
    directory = tmp_path / "run"
    run = Run(quiet_options(path, directory), tmp_path / "log.txt", clock="backwards")
    until(last_of(directory).exists, run)
    run.signal(9)
    run.wait()
    code, said = Run(quiet_options(path, directory), tmp_path / "again.txt", clock="backwards").wait()
    assert code == 0, said
    assert_same_training_state(read_checkpoint(last_of(directory)), read_checkpoint(last_of(whole)))
    assert 0 < read_checkpoint(last_of(directory))["training_seconds"] < 600


def test_a_damaged_newest_checkpoint_is_left_out(path, whole, tmp_path):
    directory = tmp_path / "run"
    run = Run(quiet_options(path, directory), tmp_path / "log.txt")
    until(lambda: len(list(directory.glob("checkpoints/images_*.ckpt"))) >= 2, run)
    run.signal(9)
    run.wait()
    sorted(directory.glob("checkpoints/images_*.ckpt"))[-1].write_bytes(b"damaged")
    code, said = Run(quiet_options(path, directory), tmp_path / "again.txt").wait()
    assert code == 0 and said.count("cannot be read") == 1, said
    assert_same_training_state(read_checkpoint(last_of(directory)), read_checkpoint(last_of(whole)))


def test_another_seed_is_said(path, whole, tmp_path):
    """In one line; and what was asked for is done."""
    middle, last = middle_and_last(whole)
    options = ["--ckpt_path", str(middle), f"--trainer.default_root_dir={tmp_path}/other", "--seed_everything=5"]
    code, said = Run(options, tmp_path / "other.txt").wait()
    assert code == 0, said
    assert said.count("note: seed_everything is 5 as given, 1 in the checkpoint; 5 is used\n") == 1
    with pytest.raises(AssertionError):
        (other,) = (tmp_path / "other").glob("*/*")
        assert_same_training_state(read_checkpoint(last_of(other)), last)
