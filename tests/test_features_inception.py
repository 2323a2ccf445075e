"""Our Inception scores against torch-fidelity's own run on the same images with the same random weights."""

import hashlib

import pytest
import torch

from benchmarks.libraries import Images, random_inception
from evaluation.features import extract, feature_network_for
from evaluation.inception import FILE_NAME, InceptionFeatures, find_weights
from evaluation.protocol import Source
from evaluation.scores import score


def images(n, seed, channels=3, spread=40):
    """Smooth random images: noise of 4x4 pixels, enlarged to 32x32."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 128 + spread * torch.randn(n, channels, 4, 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=32, mode="bilinear").clip(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights with calibrated batch norms, so that features differ from image to image."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = random_inception()
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None
    with torch.no_grad():
        network.train()(images(4, seed=9))
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def network(weights):
    return InceptionFeatures(weights)


def test_features_equal_torch_fidelitys(weights, network):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    theirs = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=weights
    )
    features, logits = theirs(images(2, seed=0))
    ours = extract(network, images(2, seed=0), batch_size=2)
    assert torch.equal(ours.features, features) and torch.equal(ours.logits, logits)
    assert features.std(0).mean() > 1e-3  # the comparison is not of constants


def test_grey_images_are_read_as_three_equal_channels(network):
    grey = images(1, seed=0, channels=1)
    ours = network.extract(grey)
    assert torch.equal(ours.features, network.extract(grey.repeat(1, 3, 1, 1)).features)
    with pytest.raises(ValueError, match="2 channels"):
        network.extract(torch.zeros(1, 2, 32, 32, dtype=torch.uint8))


def test_the_protocol_names_the_network_and_its_hash(weights, network):
    assert network.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert network.name == "inception-v3-compat with other weights"


def test_weights_that_are_missing_are_told_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("evaluation.classifier.CIFAR10", tmp_path / "absent")  # else it judges without Inception
    with pytest.raises(ValueError, match="--inception_weights PATH") as error:
        feature_network_for((3, 32, 32))
    assert FILE_NAME in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"nowhere\.pth: no such file"):
        feature_network_for((3, 32, 32), tmp_path / "nowhere.pth")


def test_a_damaged_download_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / FILE_NAME).write_bytes(b"half a file")
    assert find_weights() == tmp_path / "checkpoints" / FILE_NAME
    with pytest.raises(ValueError, match="damaged"):
        InceptionFeatures()


class Dangerous:
    def __reduce__(self):
        return (open, ("executed", "w"))


@pytest.mark.parametrize("content", [Dangerous(), {"fc.weight": torch.zeros(1)}, [1, 2]])
def test_a_file_that_is_no_state_dict_is_refused_and_not_executed(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="not the weights of torch-fidelity's Inception") as error:
        InceptionFeatures(tmp_path / "weights.pth")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "executed").exists()


@pytest.fixture(scope="module")
def pixels():
    """A feature extractor of torch-fidelity's kind: 48 features and 12 logits, linear in the pixels."""
    from torch_fidelity import register_feature_extractor
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    class Linear(FeatureExtractorBase):
        def __init__(self, name, features_list, **kwargs):
            super().__init__(name, features_list)
            generator = torch.Generator().manual_seed(0)
            self.map = torch.nn.Parameter(torch.randn(3 * 32 * 32, 60, generator=generator) / 55)

        @staticmethod
        def get_provided_features_list():
            return "2048", "logits_unbiased"

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return {"isc": "logits_unbiased", "fid": "2048", "kid": "2048", "prc": "2048"}[metric]

        @staticmethod
        def can_be_compiled():
            return False

        def forward(self, x):
            y = (x.flatten(1).float() / 127.5 - 1) @ self.map
            layers = {"2048": y[:, :48], "logits_unbiased": 3 * y[:, 48:]}
            return tuple(layers[name] for name in self.features_list)

    register_feature_extractor("pixels", Linear)
    return Linear("pixels", ["2048", "logits_unbiased"])


def fidelity(generated, real, subset_size, **options):
    """torch-fidelity's own scores."""
    import torch_fidelity

    return torch_fidelity.calculate_metrics(
        input1=Images(generated),
        input2=Images(real),
        cuda=False,
        isc=True,
        fid=True,
        kid=True,
        kid_subset_size=subset_size,
        prc=True,
        feature_layer_prc="2048",  # its default is another network, VGG16
        save_cpu_ram=True,  # no worker processes
        verbose=False,
        cache=False,
        **options,
    )


def agree(ours, theirs):
    assert ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
    assert ours["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    assert ours["is"] == pytest.approx(theirs["inception_score_mean"], rel=1e-3)


def test_scores_of_the_same_features_equal_torch_fidelitys(network, pixels, monkeypatch):
    generated, real = images(1100, seed=0), images(1040, seed=1, spread=90)
    monkeypatch.setitem(network._modules, "network", pixels)
    ours = score(network, extract(network, generated), extract(network, real), Source("test"), "real")
    theirs = fidelity(generated, real, 1000, feature_extractor="pixels")
    agree(ours.distances | ours.alone, theirs)
    assert theirs["inception_score_mean"] > 1.1 and theirs["kernel_inception_distance_mean"] > 1e-4
    assert (ours.protocol.images, ours.protocol.reference_images) == (1100, 1040)


@pytest.mark.slow
def test_scores_equal_torch_fidelitys_from_the_images_on(weights, network):
    """64 images through Inception twice: a few minutes on one core."""
    generated, real = images(64, seed=0), images(64, seed=1, spread=90)
    ours = score(network, extract(network, generated, 16), extract(network, real, 16), Source("test"), "real")
    theirs = fidelity(
        generated,
        real,
        64,
        batch_size=16,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights),
    )
    agree(ours.distances | ours.alone, theirs)
    for name in ("precision", "recall"):  # of equally many on both sides, as ours always are
        assert ours.distances[name] == pytest.approx(theirs[name], rel=1e-3)
