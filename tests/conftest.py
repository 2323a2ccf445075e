"""What tests of several files share: one thread each, and a tiny diffusion model as a teacher."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: small networks do not share, and tests run abreast

import pytest
from corpus import Corpus
from small_runs import config, fit


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """The checkpoint of a DiffusionModule of a few steps, with the network of `small_runs.config`."""
    run = fit(tmp_path_factory.mktemp("teacher"), config("DiffusionModule", images=256), name="teacher")
    return str(run / "checkpoints" / "last.ckpt")


@pytest.fixture(scope="session")
def flow(tmp_path_factory):
    """The checkpoint of a RectifiedFlowModule of a few steps, with the network of `small_runs.config`."""
    run = fit(tmp_path_factory.mktemp("flow"), config("RectifiedFlowModule", images=256), name="flow")
    return str(run / "checkpoints" / "last.ckpt")


@pytest.fixture
def corpus(tmp_path, capfd, monkeypatch):
    """Commands in an empty folder, which is the current one too."""
    monkeypatch.chdir(tmp_path)
    return Corpus(tmp_path, capfd)
