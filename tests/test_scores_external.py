"""What `sample` writes, judged by torch-fidelity alone, against what `test` prints: the same scores.

Both sides read one file of random weights, so that nothing is downloaded. It is of a small network instead of
Inception, which is put where our judge expects torch-fidelity's; tests/test_features_inception.py has Inception itself.
"""

import json

import numpy as np
import pytest
import torch
import torch_fidelity
from PIL import Image
from small_runs import config, fit
from torch_fidelity import feature_extractor_inceptionv3, register_feature_extractor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from evaluation.inception import InceptionFeatures
from main import main

N = 96
STEPS = ["--steps", "3", "--batch_size", str(N)]


class Small(FeatureExtractorBase):
    """24 features and 10 logits of 8x8 RGB images; the weights come from a file."""

    def __init__(self, name, features_list, feature_extractor_weights_path=None, **kwargs):
        super().__init__(name, features_list)
        self.body, self.head = torch.nn.Conv2d(3, 24, 5), torch.nn.Linear(3 * 8 * 8, 10)
        if feature_extractor_weights_path is not None:
            self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=True))
        self.eval().requires_grad_(False)

    @staticmethod
    def get_provided_features_list():
        return "2048", "logits_unbiased"

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return "logits_unbiased" if metric == "isc" else "2048"

    @staticmethod
    def can_be_compiled():
        return False

    def forward(self, x):
        x = x.float() / 127.5 - 1
        layers = {"2048": self.body(x).relu().amax((2, 3)), "logits_unbiased": 8 * self.head(x.flatten(1))}
        return tuple(layers[name] for name in self.features_list)


@pytest.fixture(scope="module")
def small():
    """torch-fidelity and our judge both take the small network."""
    register_feature_extractor("small", Small)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_extractor_inceptionv3, "FeatureExtractorInceptionV3", Small)
        patch.setattr(InceptionFeatures, "size", 24)
        yield


@pytest.fixture(scope="module")
def folder(small, tmp_path_factory):
    """A file of weights; real images, a run on them, and its images as PNG files and as npz.

    The model is a diffusion model that saw 64 images: near the ideal denoiser of N(0, 1/4), so it makes noise. The real
    images are other noise of it, every second one paler, so that no score is trivial.
    """
    folder = tmp_path_factory.mktemp("external")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(Small("small", ["2048"]).state_dict(), folder / "weights.pth")
    noise = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
    (folder / "noise").mkdir()
    for i, image in enumerate(noise):
        Image.fromarray(image).save(folder / "noise" / f"{i:03d}.png")
    content = config("DiffusionModule", images=64)
    content["data"] = {
        "class_path": "datamodules.ImageDataModule",
        "init_args": {"path": str(folder / "noise"), "resolution": 8, "batch_size": 64},
    }
    content["grids"]["steps"] = [3]
    run = fit(folder, content)
    last = run / "checkpoints" / "last.ckpt"
    sample = ["sample", "--ckpt_path", str(last), *STEPS]
    assert main([*sample, "--seeds", f"2000-{1999 + N}", "--no-grid", "--out", f"{folder}/real"]) == 0
    for path in sorted((folder / "real").iterdir())[::2]:
        Image.fromarray(np.asarray(Image.open(path)) // 2 + 64).save(path)
    assert main([*sample, "--seeds", f"0-{N - 1}", "--subdirs", "--out", f"{folder}/png"]) == 0
    assert main([*sample, "--seeds", f"0-{N - 1}", "--npz", "--out", f"{folder}/npz"]) == 0
    (folder / "last.ckpt").symlink_to(last)
    (folder / "real.yaml").write_text(
        f"class_path: datamodules.ImageDataModule\ninit_args: {{path: {folder}/real, resolution: 8}}\n"
    )
    return folder


@pytest.fixture(scope="module")
def ours(folder):
    """scores.json of `test`."""
    weights = ["--inception_weights", f"{folder}/weights.pth"]
    assert main(["reference", "--data", f"{folder}/real.yaml", *weights, "--out", f"{folder}/real.npz"]) == 0
    scores = {"num_images": N, "batch_size": N, "steps": [3], "reference": f"{folder}/real.npz"}
    options = [f"--scores.{name}={value}" for name, value in {**scores, "out": f"{folder}/scores.json"}.items()]
    last = str((folder / "last.ckpt").resolve())
    assert main(["test", "--ckpt_path", last, "--data.init_args.path", f"{folder}/real", *weights, *options]) == 0
    return json.loads((folder / "scores.json").read_text())


def theirs(folder, judged):
    """torch-fidelity's own scores of the files, as its command line computes them."""
    return torch_fidelity.calculate_metrics(
        input1=judged,
        input2=f"{folder}/real",
        samples_find_deep=True,
        cuda=False,
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        kid_subset_size=N,
        feature_extractor="small",
        feature_extractor_weights_path=f"{folder}/weights.pth",
        save_cpu_ram=True,  # no worker processes
        verbose=False,
        cache=False,
    )


NAMES = {
    "fid": "frechet_inception_distance",
    "kid": "kernel_inception_distance_mean",
    "is": "inception_score_mean",
    "precision": "precision",
    "recall": "recall",
}


def test_torch_fidelity_reads_the_files_and_finds_our_scores(folder, ours):
    expected = theirs(folder, f"{folder}/png")
    train = ours["scores"][0]
    assert (train["protocol"]["images"], train["protocol"]["reference_images"]) == (N, N)
    mine = train["distances"] | train["alone"]
    assert set(mine) == set(NAMES)
    for name, their_name in NAMES.items():
        assert mine[name] == pytest.approx(expected[their_name], rel=1e-3), name
    assert mine["fid"] > 0.01 and mine["kid"] > 1e-4 and mine["is"] > 1.05  # nothing is trivial
    assert 0.1 < mine["precision"] < 0.99 and 0.1 < mine["recall"] < 0.99
    assert abs(mine["precision"] - mine["recall"]) > 0.02  # nor are the two the same


def test_the_npz_file_holds_the_same_images(folder, ours):
    with np.load(folder / "npz" / "samples.npz") as held:
        images, seeds = held["arr_0"], held["seeds"]
    assert images.shape == (N, 8, 8, 3) and images.dtype == np.uint8
    for seed, image in zip(seeds, images, strict=True):
        assert np.array_equal(np.asarray(Image.open(folder / "png" / "000000" / f"{seed:06d}.png")), image)


def test_the_distance_to_edms_file_is_the_distance_to_the_images(folder, ours):
    train, _, file = ours["scores"]
    assert list(file["distances"]) == ["fid"]
    assert file["distances"]["fid"] == pytest.approx(train["distances"]["fid"], rel=1e-9)


def edms_fid(images, reference):
    """NVlabs/edm fid.py at 008a4e5, restated: one pass of sums, and the root by scipy."""
    import scipy.linalg

    features = images.double().numpy()
    mu = features.sum(0) / len(features)
    sigma = (features.T @ features - np.outer(mu, mu) * len(features)) / (len(features) - 1)
    root = scipy.linalg.sqrtm(sigma @ reference["sigma"])
    return np.square(mu - reference["mu"]).sum() + np.trace(sigma + reference["sigma"] - 2 * np.real(root))


def test_edms_formula_finds_our_fid_with_our_file(folder, ours):
    judge = InceptionFeatures(folder / "weights.pth")
    with np.load(folder / "npz" / "samples.npz") as held, np.load(folder / "real.npz") as reference:
        features = judge.extract(torch.from_numpy(held["arr_0"]).movedim(-1, 1)).features
        fid = edms_fid(features, dict(reference))
    assert fid == pytest.approx(ours["scores"][2]["distances"]["fid"], rel=1e-6)
