"""Two hosts: torchrun over two network namespaces, gloo between them, and one host's worker killed on the way."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import PATIENCE, ROOT, free_port, last_of, quiet_options, write_config
from small_runs import config, fit
from test_resume import assert_same_training_state

from lightning_modules.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow
HOSTS = ("10.77.0.1", "10.77.0.2")
PORT = 29511
STEPS = 400


def ip(*arguments):
    return subprocess.run(["ip", *arguments], capture_output=True, text=True)


@pytest.fixture
def hosts():
    """Two network namespaces joined by a cable; what has to stand before a command so that it runs in each."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root, and `ip` of iproute2")
    names = [f"fewstep{os.getpid()}{side}" for side in "ab"]
    ends = [f"fs{os.getpid()}{side}" for side in "ab"]
    made = [ip("netns", "add", name) for name in names]
    made.append(ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1]))
    if any(done.returncode for done in made):
        for name in names:
            ip("netns", "del", name)
        pytest.skip(f"network namespaces are not permitted here: {made[-1].stderr.strip()}")
    for name, end, address in zip(names, ends, HOSTS, strict=True):
        assert ip("link", "set", end, "netns", name).returncode == 0
        assert ip("-n", name, "addr", "add", f"{address}/24", "dev", end).returncode == 0
        for device in (end, "lo"):
            assert ip("-n", name, "link", "set", device, "up").returncode == 0
    yield list(zip([["ip", "netns", "exec", name] for name in names], ends, strict=True))
    for name in names:
        ip("netns", "del", name)


def start(hosts, rank, options, log, workers=1, restarts=0):
    """torchrun on one of the hosts, in a session of its own; with none, on this machine alone."""
    prefix, interface = hosts[rank] if hosts else ([], "lo")
    nodes, address = max(1, len(hosts)), HOSTS[0] if hosts else "127.0.0.1"
    port = PORT if hosts else free_port()  # in a namespace of its own every port is free
    command = [*prefix, sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", f"--node_rank={rank}"]
    command += [f"--nproc_per_node={workers}", f"--master_addr={address}", f"--master_port={port}"]
    command += [f"--max_restarts={restarts}"]
    trainer = [f"--trainer.devices={workers}", f"--trainer.num_nodes={nodes}", "--trainer.strategy=ddp"]
    return subprocess.Popen(
        [*command, "main.py", "fit", *options, *trainer],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": interface},
        stdout=log.open("a"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def ended(agents, logs):
    codes = [agent.wait(2 * PATIENCE) for agent in agents]
    return codes, "\n".join(log.read_text() for log in logs)


def worker_of(agent):
    """The last process that an agent started; `ip netns exec` becomes the agent."""
    return int(Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()[-1])


def run_of(folder):
    content = config("CTModule", images=64 * STEPS)
    content["checkpoints"]["every_n_images"] = 64 * 20
    return content, write_config(folder, content)


def until_it_saves(directory, agents, logs):
    deadline = time.monotonic() + PATIENCE
    while not last_of(directory).exists():
        assert time.monotonic() < deadline and all(agent.poll() is None for agent in agents), ended(agents, logs)[1]
        time.sleep(0.02)


def test_two_hosts(hosts, tmp_path):
    """What one host with two processes trains, and one process within float error; and after kill -9 of one host's
    worker the same command comes to the same weights, bit for bit."""
    (content, path), logs = run_of(tmp_path), [tmp_path / f"host_{i}.txt" for i in (0, 1)]

    def trained(directory):
        codes, said = ended([start(hosts, i, quiet_options(path, directory), logs[i]) for i in (0, 1)], logs)
        assert codes == [0, 0], said
        return read_checkpoint(last_of(directory))

    whole = trained(tmp_path / "whole")
    assert len(list((tmp_path / "whole").glob("events.*"))) == 1
    one_host = [start([], 0, quiet_options(path, tmp_path / "one_host"), tmp_path / "one_host.txt", workers=2)]
    codes, said = ended(one_host, [tmp_path / "one_host.txt"])
    assert codes == [0], said
    assert_same_training_state(read_checkpoint(last_of(tmp_path / "one_host")), whole)
    alone = fit(tmp_path, content, "--trainer.enable_progress_bar=false")
    for name, weights in read_checkpoint(last_of(alone))["state_dict"].items():
        torch.testing.assert_close(whole["state_dict"][name], weights, rtol=0, atol=1e-4, msg=name)

    directory = tmp_path / "killed"
    agents = [start(hosts, i, quiet_options(path, directory), logs[i]) for i in (0, 1)]
    until_it_saves(directory, agents, logs)
    os.kill(worker_of(agents[1]), signal.SIGKILL)
    codes, said = ended(agents, logs)
    assert all(codes), said
    assert read_checkpoint(last_of(directory))["images_seen"] < 64 * STEPS
    assert_same_training_state(trained(directory), whole)


def test_torchrun_starts_a_killed_worker_again(tmp_path):
    """--max_restarts: the command is the same, so the run goes on from its last checkpoint."""
    (_, path), log, whole_log = run_of(tmp_path), tmp_path / "log.txt", tmp_path / "whole.txt"
    directory, whole = tmp_path / "killed", tmp_path / "whole"
    agent = start([], 0, quiet_options(path, directory), log, workers=2, restarts=1)
    until_it_saves(directory, [agent], [log])
    os.kill(worker_of(agent), signal.SIGKILL)
    codes, said = ended([agent], [log])
    assert codes == [0] and said.count("run:      ") == 2, said
    codes, said = ended([start([], 0, quiet_options(path, whole), whole_log, workers=2)], [whole_log])
    assert codes == [0], said
    assert_same_training_state(read_checkpoint(last_of(directory)), read_checkpoint(last_of(whole)))
