"""SIGTERM, SIGUSR1 and SIGINT, to a run of one process and to either process of two: nobody hangs, nothing is lost."""

import signal

import pytest
from processes import Run, free_port, last_of, quiet_options, until, write_config
from small_runs import config
from test_resume import assert_same_training_state

from lightning_modules.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow
SIGNALS = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]


def two(options, folder):
    """A run of two processes, as torchrun starts them."""
    port, runs = free_port(), []
    for rank in (0, 1):
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0}
        variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
        environment = {name: str(value) for name, value in variables.items()}
        more = ["--trainer.devices=2", "--trainer.strategy=ddp"]
        runs.append(Run([*options, *more], folder / f"rank_{rank}.log", environment))
    return runs


def run_of(folder, module, steps):
    content = config(module, images=64 * steps)
    content["checkpoints"]["every_n_images"] = 64 * 20
    return write_config(folder, content)


@pytest.fixture(scope="module", params=["CTModule", "UFOGenModule"])
def undisturbed(request, tmp_path_factory):
    """A config, and the last checkpoint of a run of it that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    path = run_of(folder, request.param, 300)
    assert Run(quiet_options(path, folder / "run"), folder / "log.txt").wait()[0] == 0
    return path, read_checkpoint(last_of(folder / "run"))


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
def test_one_process(number, undisturbed, tmp_path):
    (path, whole), directory = undisturbed, tmp_path / "run"
    run = Run(quiet_options(path, directory), tmp_path / "log.txt")
    until(last_of(directory).exists, run)
    run.signal(number)
    code, said = run.wait()
    assert code == 128 + number and "Traceback" not in said, said
    assert f"fit --ckpt_path {last_of(directory)}" in said
    assert read_checkpoint(last_of(directory))["images_seen"] < 64 * 300
    assert Run(quiet_options(path, directory), tmp_path / "again.txt").wait()[0] == 0
    assert_same_training_state(read_checkpoint(last_of(directory)), whole)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
def test_one_of_two_processes(number, rank, tmp_path):
    path, directory = run_of(tmp_path, "CTModule", 10_000), tmp_path / "run"
    runs = two(quiet_options(path, directory), tmp_path)
    until(last_of(directory).exists, runs[0])
    runs[rank].signal(number)
    (code, said), (other, _) = (run.wait() for run in runs)
    assert code == other == 128 + number and "Traceback" not in said, said
    assert f"fit --ckpt_path {last_of(directory)}" in said
    assert 64 * 20 <= read_checkpoint(last_of(directory))["images_seen"] < 64 * 10_000


def test_before_the_first_step(tmp_path):
    """A warning that comes early is kept until there is something to save."""
    path, directory = run_of(tmp_path, "CTModule", 300), tmp_path / "run"
    run = Run(quiet_options(path, directory), tmp_path / "log.txt")
    until(lambda: "data: " in run.said(), run)
    run.signal(signal.SIGUSR1)
    code, said = run.wait()
    assert code == 138 and read_checkpoint(last_of(directory))["images_seen"] >= 64, said
