"""Two processes (gloo) give what one gives: images, features and inversion scores."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import nn

from diffusion.denoisers import BidirectionalDenoiser
from evaluation.classifier import DIGITS, ClassifierFeatures
from evaluation.features import extract
from evaluation.gather import gather_strided, strided
from evaluation.generate import Meter, generate
from evaluation.inversion import score_inversion
from evaluation.real_features import real_features


class Network(nn.Module):
    """A convolution that knows no level."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x, c_noise, label=None, c_target=None):
        return self.convolution(x)


def work(folder):
    """Everything that is divided among processes; 11 images are no multiple of two.

    Args:
        folder: of real features.
    """
    denoise = BidirectionalDenoiser(Network())
    meter = Meter(denoise.network)
    images = generate(
        lambda noise, steps, label: denoise(80 * noise(), 80.0), range(11), (1, 8, 8), batch_size=4, meter=meter
    )
    features = extract(ClassifierFeatures(DIGITS), images, batch_size=4)
    real = real_features(ClassifierFeatures(DIGITS), images, folder)
    inversion = score_inversion(denoise, images, (0.07, 80.0), batch_size=4)
    kept = {"real": real.features, "covariance": real.moments.covariance}
    return kept | {"images": images, "features": features.features, "nfe": meter.nfe, "inversion": inversion.as_dict()}


def child(rank, address, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{address}", timedelta(seconds=60), world_size=2, rank=rank)
    torch.save(work(out / f"features_{rank}"), f"{out}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_give_what_one_gives(tmp_path):
    alone = work(tmp_path / "features_0")  # the first process finds it, and the second does not
    torch.multiprocessing.spawn(child, (tmp_path / "address", tmp_path), nprocs=2)
    for rank in (0, 1):
        result = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert torch.equal(result["images"], alone["images"])  # to the last bit
        for name in ("features", "real", "covariance"):
            torch.testing.assert_close(result[name], alone[name], rtol=1e-5, atol=1e-5)
        assert result["nfe"] == alone["nfe"] == 1
        for name in ("error", "denoising_error", "variance", "noise_ratio", "nfe_in", "nfe_out"):
            assert result["inversion"][name] == pytest.approx(alone["inversion"][name], rel=1e-6)


def test_one_process_takes_and_returns_all():
    items = torch.arange(5)
    assert torch.equal(gather_strided(strided(items), 5), items)
