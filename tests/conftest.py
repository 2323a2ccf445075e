"""What tests of several files share: one thread each, and a tiny diffusion model as a teacher."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: small networks do not share, and tests run abreast

import pytest
import torch
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


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=20, help="tests/torture: kill -9 of each method")
    parser.addoption("--steps", type=int, default=5000, help="tests/torture: of the runs whose memory is watched")
    parser.addoption("--kill_seed", type=int, default=0, help="tests/torture: of the moments")


@pytest.fixture
def kills(request):
    return request.config.getoption("--kills")


@pytest.fixture
def kill_seed(request):
    return request.config.getoption("--kill_seed")


@pytest.fixture
def steps(request):
    return request.config.getoption("--steps")


@pytest.fixture
def corpus(tmp_path, capfd, monkeypatch):
    """Commands in an empty folder, which is the current one too."""
    monkeypatch.chdir(tmp_path)
    return Corpus(tmp_path, capfd)


@pytest.fixture
def lpips(monkeypatch):
    """A factory of LPIPS whose backbone has random weights; w is torchmetrics' own."""
    import torchvision

    from diffusion.distances import LPIPS

    def features(name, pretrained):
        torch.manual_seed(0)
        if name == "vgg16":  # without the classifier, which is most of its weights
            built = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
        else:
            built = getattr(torchvision.models, name)().features
        for module in built.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
        return built

    monkeypatch.setattr("torchmetrics.functional.image.lpips._get_tv_model_features", features)
    return LPIPS
