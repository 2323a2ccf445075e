"""Files of mean and covariance in EDM's layout: written, read, scored against, and refused."""

import json

import numpy as np
import pytest
import torch
from small_runs import config, fit

from datamodules.digits import DigitsDataModule
from evaluation.classifier import DIGITS, MNIST, ClassifierFeatures
from evaluation.features import extract
from evaluation.protocol import Source
from evaluation.reference import read_reference, write_reference
from evaluation.scores import score, score_by_moments
from main import main


@pytest.fixture(scope="module")
def judge():
    return ClassifierFeatures(DIGITS)


@pytest.fixture(scope="module")
def real(judge):
    return {split: extract(judge, DigitsDataModule().uint8_images(split)[0]) for split in ("train", "test")}


@pytest.fixture
def path(judge, real, tmp_path):
    write_reference(tmp_path / "refs" / "digits.npz", real["test"], judge)
    return tmp_path / "refs" / "digits.npz"


def test_the_layout_is_edms(path, real):
    """NVlabs/edm fid.py at 008a4e5: `dict(np.load(f))`, then 'mu' and 'sigma', both float64."""
    with np.load(path) as held:
        reference = dict(held)
    features = real["test"].features.double().numpy()
    assert reference["mu"].dtype == reference["sigma"].dtype == np.float64
    np.testing.assert_allclose(reference["mu"], features.mean(0), atol=1e-12)
    np.testing.assert_allclose(reference["sigma"], np.cov(features, rowvar=False), rtol=1e-9, atol=1e-12)
    assert int(reference["images"]) == 360


def test_the_distance_is_that_of_the_features(judge, real, path):
    judged = real["train"].first(360)
    known = read_reference(path, judge)
    by_moments = score_by_moments(judge, judged, known, Source("train"))
    by_features = score(judge, judged, real["test"], Source("train"), "test")
    assert by_moments.distances == {"fd_digits": pytest.approx(by_features.distances["fd_digits"], rel=1e-9)}
    assert by_moments.distances["fd_digits"] > 0.1
    assert by_moments.alone == by_features.alone
    assert by_moments.protocol.reference.startswith("digits-") and by_moments.protocol.reference_images == 360
    assert by_moments.protocol.differences(by_features.protocol) == [
        f"reference: {known.name} and test"
    ]  # so the two are never mixed up


def test_as_many_images_as_the_reference_has(judge, real, path):
    """The classifiers' rule, since the distances are biased in N."""
    result = score_by_moments(judge, real["train"], read_reference(path, judge), Source("train"))
    assert (result.protocol.images, result.protocol.images_alone) == (360, 1437)


def test_edms_and_adms_files_are_read(judge, real, tmp_path):
    """EDM's hold nothing beside mu and sigma; ADM's hold images and float32 statistics of others as well."""
    mu, sigma = (m.numpy() for m in real["test"].moments)
    np.savez(tmp_path / "edm.npz", mu=mu, sigma=sigma)
    np.savez(tmp_path / "adm.npz", arr_0=np.zeros((2, 8, 8, 3), np.uint8), mu=mu, sigma=sigma, mu_s=mu, sigma_s=sigma)
    for name in ("edm", "adm"):
        known = read_reference(tmp_path / f"{name}.npz", judge)
        assert known.images is None and torch.equal(known.moments.covariance, real["test"].moments.covariance)
        result = score_by_moments(judge, real["train"], known, Source("train"))
        assert (result.protocol.images, result.protocol.reference_images) == (1437, None)
    (tmp_path / "edm.npz").replace(tmp_path / "again.npz")
    assert read_reference(tmp_path / "again.npz", judge).name != known.name


def eye(**change):
    return {"mu": np.zeros(32), "sigma": np.eye(32), **change}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"arr_0": np.zeros((2, 8, 8, 1), np.uint8)}, "no reference statistics"),
        (eye(mu=np.zeros(2048), sigma=np.eye(2048)), "statistics of 2048 features, and digits has 32"),
        (eye(mu=np.zeros((1, 32))), "not a mean and a covariance"),
        (eye(sigma=np.eye(31)), "not a mean and a covariance"),
        (eye(mu=np.zeros(32, int)), "not a mean and a covariance"),
        (eye(mu=np.full(32, np.nan)), "not finite"),
        (eye(sigma=np.array([[print]], dtype=object)), "not an npz file of arrays"),
    ],
)
def test_what_is_no_reference_is_refused_in_one_line(arrays, message, judge, tmp_path):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message) as error:
        read_reference(tmp_path / "bad.npz", judge)
    assert "bad.npz" in str(error.value) and "\n" not in str(error.value)


def test_the_features_of_another_network_are_refused(path):
    with pytest.raises(ValueError, match=r"features of digits \(sha256 dad92c540bc3\), and the judge is mnist"):
        read_reference(path, ClassifierFeatures(MNIST))  # as many features, other ones


def test_a_file_that_is_none_is_refused(judge, tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        read_reference(tmp_path / "nowhere.npz", judge)
    (tmp_path / "text.npz").write_text("mu sigma")
    with pytest.raises(ValueError, match="not an npz file"):
        read_reference(tmp_path / "text.npz", judge)


@pytest.fixture(scope="module")
def last(tmp_path_factory):
    return str(fit(tmp_path_factory.mktemp("run"), config(images=128)) / "checkpoints" / "last.ckpt")


def test_from_the_command_to_the_table(last, tmp_path, capsys, monkeypatch):
    """A reference of the training split gives the distance to the training split; nothing real is extracted twice."""
    out = tmp_path / "refs" / "digits.npz"
    assert main(["reference", "--data", "configs/data/digits.yaml", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "1,437 images (train), 32 features of digits" in said and f"--scores.reference {out}" in said

    seen, original = [], ClassifierFeatures.extract

    def count(self, images):
        seen.append(len(images))
        return original(self, images)

    monkeypatch.setattr(ClassifierFeatures, "extract", count)
    options = ["--trainer.default_root_dir", str(tmp_path), "--scores.num_images", "1437"]
    test = ["test", "--ckpt_path", last, "--scores.reference", str(out), "--scores.out", str(tmp_path / "s.json")]
    contents = []
    for extracted in (1437 + 360 + 1437, 1437):  # train, test and generated; then the generated alone
        seen.clear()
        assert main([*test, *options]) == 0
        assert sum(seen) == extracted
        contents.append(json.loads((tmp_path / "s.json").read_text()))
    first, second = ([s["distances"] for s in content["scores"] + content["floors"]] for content in contents)
    assert first == second
    train, _, file = contents[0]["scores"]
    assert list(file["distances"]) == ["fd_digits"]
    assert file["distances"]["fd_digits"] == pytest.approx(train["distances"]["fd_digits"], rel=1e-9)
    assert file["protocol"]["reference"].startswith("digits-") and file["protocol"]["reference_images"] == 1437
    floor = contents[0]["floors"][-1]
    assert floor["protocol"]["source"]["name"] == "real: test"
    assert 0 < floor["distances"]["fd_digits"] < 0.5  # of real images, so the file is of these features
    said = capsys.readouterr().out
    assert "without kd_digits, precision_digits, recall_digits" in said and file["protocol"]["reference"][:8] in said


def test_the_cache_can_be_left_out(last, tmp_path):
    options = ["--trainer.default_root_dir", str(tmp_path), "--scores.cache=false", f"--scores.out={tmp_path}/s.json"]
    assert main(["test", "--ckpt_path", last, *options]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["s.json"]


def test_bad_use_is_one_line(last, tmp_path, capsys):
    np.savez(tmp_path / "inception.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    data, out = ["--data", "configs/data/digits.yaml"], str(tmp_path / "x.npz")
    (tmp_path / "points.yaml").write_text(
        "class_path: datamodules.ToyDataModule\ninit_args: {distribution: {class_path: datamodules.toy.Gaussian}}\n"
    )
    for args, message in (
        (["test", "--ckpt_path", last, "--scores.reference", f"{tmp_path}/inception.npz"], "statistics of 2048"),
        (["test", "--ckpt_path", last, "--scores.reference", "nowhere.npz"], "reference=nowhere.npz: no such file"),
        (["reference", "--data", "nowhere.yaml", "--out", out], "there is no file nowhere.yaml"),
        (["reference", *data], "--out"),
        (["reference", *data, "--out", str(tmp_path)], "is a folder, the name of a file is needed"),
        (["reference", *data, "--out", str(tmp_path / "x.pkl")], "name of an .npz file"),
        (["reference", *data, "--out", "README.md/x.npz"], "readme"),
        (["reference", *data, "--split", "validation", "--out", out], "--split"),
        (["reference", "--data", f"{tmp_path}/points.yaml", "--out", out], "points of"),
    ):
        capsys.readouterr()
        assert main(args) == 2, args
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and message in err.lower(), err
    assert not (tmp_path / "x.npz").exists()
