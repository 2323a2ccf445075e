"""Features of real images are computed once, and are read from a file afterwards."""

import numpy as np
import pytest
import torch

from datamodules.digits import DigitsDataModule
from evaluation.classifier import DIGITS, MNIST, ClassifierFeatures
from evaluation.distances import moments
from evaluation.features import extract
from evaluation.real_features import real_features


class Counting(ClassifierFeatures):
    """The digits' judge, which counts the images that it sees."""

    seen = 0

    def extract(self, images):
        self.seen += len(images)
        return super().extract(images)


@pytest.fixture(scope="module")
def images():
    return DigitsDataModule().uint8_images("test")[0][:100]


@pytest.fixture
def judge():
    return Counting(DIGITS)


def test_the_second_time_nothing_is_extracted(judge, images, tmp_path):
    first = real_features(judge, images, tmp_path / "features")
    assert judge.seen == 100
    second = real_features(judge, images, tmp_path / "features")
    assert judge.seen == 100
    fresh = extract(ClassifierFeatures(DIGITS), images)
    for known in (first, second):
        assert torch.equal(known.features, fresh.features) and torch.equal(known.logits, fresh.logits)
        for mine, expected in zip(known.moments, moments(fresh.features), strict=True):
            assert torch.equal(mine, expected) and mine.dtype == torch.float64
    assert second.known_moments is not None  # read, not computed again
    assert [p.suffix for p in (tmp_path / "features").iterdir()] == [".npz"]  # nothing half written is left


def test_without_a_folder_nothing_is_kept(judge, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    real_features(judge, images, None)
    real_features(judge, images, None)
    assert judge.seen == 200 and not list(tmp_path.iterdir())


def test_other_images_another_number_and_other_weights_have_their_own_file(judge, images, tmp_path):
    changed = images.clone()
    changed[0, 0, 0, 0] ^= 1
    for other in (images, changed, images[:50]):
        real_features(judge, other, tmp_path)
    assert judge.seen == 250 and len(list(tmp_path.iterdir())) == 3
    judge.sha256 = "0" * 64
    real_features(judge, images, tmp_path)
    assert judge.seen == 350 and len(list(tmp_path.iterdir())) == 4


def damage(path, how):
    """Spoil the file of features."""
    whole = path.read_bytes()
    with np.load(path) as held:
        arrays = dict(held)
    match how:
        case "cut":
            path.write_bytes(whole[: len(whole) // 2])
        case "empty":
            path.write_bytes(b"")
        case "one bit":
            middle = len(whole) // 2
            path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        case "of other images":
            np.savez(path, **{**arrays, "key": "another"})
        case "of fewer images":
            np.savez(path, **{**arrays, "features": arrays["features"][:-1]})
        case "a reference":
            np.savez(path, mu=arrays["mu"], sigma=arrays["sigma"])
        case "an array":
            with path.open("wb") as file:
                np.save(file, arrays["mu"])
        case "code":
            np.savez(path, **{**arrays, "features": np.array([print], dtype=object)})


HOW = ["cut", "empty", "one bit", "of other images", "of fewer images", "a reference", "an array", "code"]


@pytest.mark.parametrize("how", HOW)
def test_a_damaged_or_foreign_file_is_told_and_mended(how, judge, images, tmp_path, capsys):
    fresh = real_features(judge, images, tmp_path)
    (path,) = tmp_path.iterdir()
    damage(path, how)
    again = real_features(judge, images, tmp_path)
    assert judge.seen == 200 and torch.equal(again.features, fresh.features)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and f"{path} is damaged or of another kind" in said
    real_features(judge, images, tmp_path)
    assert judge.seen == 200 and capsys.readouterr().out == ""


def test_a_folder_that_cannot_be_written_does_no_harm(judge, images, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert len(real_features(judge, images, tmp_path / "file")) == 100
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "are not kept" in said


def test_a_write_that_fails_leaves_nothing(judge, images, tmp_path, monkeypatch, capsys):
    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("evaluation.files.np.savez", full)
    assert len(real_features(judge, images, tmp_path)) == 100
    assert not list(tmp_path.iterdir()) and "No space left" in capsys.readouterr().out


def test_the_sizes_are_those_of_the_networks(images):
    assert ClassifierFeatures(DIGITS).size == extract(ClassifierFeatures(DIGITS), images).features.shape[1]
    assert ClassifierFeatures(MNIST).size == 32
