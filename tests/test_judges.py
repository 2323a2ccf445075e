"""Three judges and sets of known faults: a memorising and a class-dropping model are told apart by their numbers."""

import statistics
from dataclasses import replace

import pytest
import torch

from datamodules.digits import DigitsDataModule
from evaluation.faults import fault_scores, faults
from evaluation.features import extract, feature_network_for
from evaluation.generate import generate
from evaluation.judges import judges_for, over_judges
from evaluation.protocol import Protocol, Source
from evaluation.scores import Score, floors, score

N = 1437
SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def digits():
    """The judges, the training split's images and labels, and each judge's features of both splits."""
    judges, data = judges_for(SHAPE), DigitsDataModule()
    train, test = (data.uint8_images(split) for split in ("train", "test"))
    return judges, train, [(extract(judge, train[0]), extract(judge, test[0])) for judge in judges]


@pytest.fixture(scope="module")
def half(digits):
    """Half of the training split against the other, by all judges: fd 0.20, 0.24, 0.24, recall 0.90, 0.89, 0.90."""
    judges, _, features = digits
    return over_judges([floors(judge, *known)[1] for judge, known in zip(judges, features, strict=True)])


@pytest.fixture(scope="module")
def faulty(digits):
    """The first judge's numbers of the sets of known faults, by name and reference."""
    judges, train, features = digits
    found = fault_scores(judges[0], *train, *features[0], N)
    return {(s.protocol.source.name, s.protocol.reference): s.distances | s.alone for s in found}


def scored(digits, sample):
    """A method's samples, generated once, judged by all against the training and the test split."""
    judges, _, features = digits
    images = generate(sample, range(N), SHAPE)
    judged = [extract(judge, images) for judge in judges]
    return [
        over_judges(
            [
                score(judge, seen, known[i], Source("fake"), split)
                for judge, seen, known in zip(judges, judged, features, strict=True)
            ]
        )
        for i, split in enumerate(("train", "test"))
    ]


def drawing(images):
    """A `sample` that gives one of the uint8 images to each seed, independently."""

    def sample(noise, steps, label=None):
        u = torch.special.ndtr(noise()[:, 0, 0, 0].double())
        return images[(u * len(images)).long()].float() / 127.5 - 1

    return sample


@pytest.fixture(scope="module")
def memorising(digits):
    """A model that gives 300 training images."""
    return scored(digits, drawing(digits[1][0][torch.randperm(N, generator=torch.Generator().manual_seed(3))[:300]]))


@pytest.fixture(scope="module")
def dropping(digits):
    """A model that never gives a zero."""
    images, labels = digits[1]
    return scored(digits, drawing(images[labels != 0]))


def by_judge(score, name):
    """The values of all judges."""
    return [score.distances[key] for key in (name, f"{name}/judge_1", f"{name}/judge_2")]


def test_a_memorising_model_is_recognised(memorising, half):
    """Its images are real, so precision (1.0) and the classes (cs 9.7 of 9.97) say nothing; recall does: 0.41."""
    train, test = memorising
    assert train.distances["precision_digits"] == 1 and train.alone["cs_digits"] > 9.5
    assert max(by_judge(train, "recall_digits")) < 0.5 < 0.85 < min(by_judge(half, "recall_digits"))
    # 0.54, 0.49, 0.59 against train; 0.67, 0.56, 0.68 against test
    for near, far, floor in zip(*(by_judge(s, "fd_digits") for s in (train, test, half)), strict=True):
        assert 1.5 * floor < near < far


def test_a_model_that_drops_a_class_is_recognised(dropping, half):
    """fd 1.88, 1.76, 1.59 against train and more against test; no image is read as a zero, and cs falls by one."""
    train, test = dropping
    for split in (train, test):
        for value, floor in zip(by_judge(split, "fd_digits"), by_judge(half, "fd_digits"), strict=True):
            assert value > 5 * floor
    assert train.alone["share_digits/0"] == 0 and min(half.alone[f"share_digits/{k}"] for k in range(10)) > 0.08
    assert train.alone["cs_digits"] < 9.1 < 9.9 < half.alone["cs_digits"]


def test_the_judges_agree_on_the_order(memorising, dropping, half):
    for name, least_first in (("fd", (half, memorising[0], dropping[0])), ("recall", (memorising[0], dropping[0]))):
        for values in zip(*(by_judge(s, f"{name}_digits") for s in least_first), strict=True):
            assert list(values) == sorted(values)


def test_the_rows_of_known_faults(faulty, half):
    """What a model's row is compared with; the test split has 360 images, and so a higher floor."""
    fd, recall = ({key: values[f"{name}_digits"] for key, values in faulty.items()} for name in ("fd", "recall"))
    floor = half.distances["fd_digits"]
    names = (
        "real: train",
        "real + noise 0.1",
        "real + noise 0.3",
        "real: without class 9",
        "real: 300 images repeated",
    )
    assert list(fd) == [(name, split) for name in names for split in ("train", "test")]
    # copies of the training split, and such copies with a little noise, are nearer to it than real images are (0.00,
    # 0.09 and 0.20), and not to the test split (0.29 and 0.39)
    assert fd["real: train", "train"] < 1e-6 and fd["real + noise 0.1", "train"] < 0.6 * floor
    assert fd["real + noise 0.1", "test"] > fd["real: train", "test"] > floor
    assert fd["real + noise 0.3", "train"] > 1  # 1.35
    assert fd["real: without class 9", "train"] > 1  # 1.33
    assert faulty["real: without class 9", "train"]["share_digits/9"] == 0
    assert recall["real: 300 images repeated", "train"] == pytest.approx(300 / N)  # exact copies alone
    assert min(recall[name, "train"] for name in names[:4]) > 0.85


def test_faults_are_a_function_of_the_seed():
    labels = torch.arange(50) % 10
    one, same, other = (list(faults(50, labels, 120, seed)) for seed in (0, 0, 2000))
    for a, b, c in zip(one, same, other, strict=True):
        assert a.name == b.name == c.name and a.seed == b.seed
        assert torch.equal(a.rows, b.rows) and not torch.equal(a.rows, c.rows)
        assert len(a.rows) == 120
    counts = torch.bincount(one[0].rows)
    assert counts.min() == 2 and counts.max() == 3
    assert 9 not in labels[one[3].rows]


def test_faults_of_few_images_and_without_labels():
    names = [fault.name for fault in faults(50, None, 20)]
    assert names == ["real: train", "real + noise 0.1", "real + noise 0.3", "real: 5 images repeated"]


def test_the_first_judge_is_the_one_that_scores_alone(digits):
    judges = digits[0]
    assert judges[0].sha256 == feature_network_for(SHAPE).sha256
    assert {judge.name for judge in judges} == {"digits"} and len({judge.sha256 for judge in judges}) == 3
    assert [judge.name for judge in judges_for((1, 28, 28))] == ["mnist"] * 3


def test_mean_and_deviation_over_judges():
    protocol = Protocol(20, "train", 20, "digits", "aa", "none", "uint8", 20, "torch", Source("CT"))
    scores = [
        Score({"fd": value}, {"cs": value}, replace(protocol, features_sha256=sha256))
        for value, sha256 in ((1.0, "aa"), (2.0, "bb"), (6.0, "cc"))
    ]
    found = over_judges(scores)
    assert found.distances == {
        "fd": 1.0,
        "fd_judges": 3.0,
        "fd_judges_std": statistics.stdev([1.0, 2.0, 6.0]),
        "fd/judge_1": 2.0,
        "fd/judge_2": 6.0,
    }
    assert found.alone == {"cs": 1.0}
    assert found.protocol == replace(protocol, judges_sha256="bb,cc")
    assert "aa, bb, cc" in found.protocol.describe()
    assert found.protocol.differences(protocol) == ["judges_sha256: bb,cc and "]
    assert over_judges(scores[:1]) is scores[0]
