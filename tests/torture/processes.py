"""Runs of `fit` as processes of their own that start in a moment: forked from one that has imported everything."""

import multiprocessing
import os
import resource
import socket
import sys
import time
from pathlib import Path

import pytest
import yaml
from small_runs import ADVERSARIAL, MODULES

ROOT = Path(__file__).parents[2]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["cli.app", "cli.sample", "small_runs", "sklearn.datasets", "torch.utils.tensorboard"])
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])  # for the forkserver
PATIENCE = 300
"""Seconds; a busy machine is slow."""


class Run:
    """`fit` with these options, in a process whose output goes to a file.

    Args:
        options: of `fit`.
        log: the file, to which is appended.
        environment: variables beside those of this process.
        clock: "backwards" for a time.time that goes back by an hour at every call.
        largest_file: bytes that a file may have.
    """

    def __init__(self, options, log, environment=None, clock=None, largest_file=None):
        self.log = log
        arguments = (options, log, environment or {}, clock, largest_file)
        self.process = CONTEXT.Process(target=_child, args=arguments)
        self.process.start()
        self.pid = self.process.pid

    def wait(self):
        """The exit code, and all that was said."""
        self.process.join(PATIENCE)
        assert not self.process.is_alive(), f"still running: {self.said()}"
        return self.process.exitcode, self.said()

    def said(self):
        return self.log.read_text() if self.log.exists() else ""

    def alive(self):
        return self.process.is_alive()

    def signal(self, number):
        """Send a signal, if the process is there still."""
        if self.alive():
            os.kill(self.pid, number)


def _child(options, log, environment, clock, largest_file):
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.environ.update(environment)
    from lightning.fabric.utilities.rank_zero import _get_rank, rank_zero_only

    rank_zero_only.rank = _get_rank() or 0  # read when Lightning was imported, in the process before the fork
    if clock == "backwards":
        now, calls = time.time(), iter(range(10**9))
        time.time = lambda: now - 3600 * next(calls)
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    from main import main

    sys.exit(main(["fit", *options]))


def until(condition, run):
    """Wait for a condition while a run is alive; whether it came true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if not run.alive():
            return condition()
        assert time.monotonic() < deadline, run.said()
        time.sleep(0.005)
    return True


def free_port():
    """A port that nobody listens at."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def last_of(directory):
    return directory / "checkpoints" / "last.ckpt"


def write_config(folder, content):
    """A config file of this content."""
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def quiet_options(path, directory):
    """Options for a run in a directory."""
    return ["--config", str(path), "--run_directory", str(directory), "--trainer.enable_progress_bar=false"]


FAMILIES = [pytest.param(name, id=name) for name in ("CTModule", "BCMModule", "DiffusionModule", *ADVERSARIAL)]
assert set(ADVERSARIAL) < set(MODULES)
