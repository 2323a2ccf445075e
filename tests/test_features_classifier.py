"""The shipped classifiers: what they read, what they refuse, and how sharp their scores are."""

import hashlib
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from datamodules.digits import DigitsDataModule
from evaluation.classifier import CIFAR10, DIGITS, MNIST, ClassifierFeatures, FeatureClassifier, read, weights
from evaluation.features import Features, extract, feature_network_for
from evaluation.protocol import Source
from evaluation.scores import floors, score

SHA256 = {  # a change of weights changes every score: it must be seen here
    DIGITS: "dad92c540bc35f897d6a1698184ff806670a1c5412cbb834411c32592206f1d1",
    weights("digits", 1): "9fc905bf1f2285ff47e2e431be4aa7e97b43b6728ac1bf34c85b76e0b9ed71f3",
    weights("digits", 2): "eec4a6e147e405c79cf2e9d5b9b2de1a019c3ea828dde53cf4808199af456681",
    MNIST: "c93a380b5937d8341b22c62e87286c8111f40cc94effc4d950f38755a890e946",
    weights("mnist", 1): "ec80f8f37d09b2a1c9a264523df992e0f557b7c18b1e57f5e0ccc13186b9db81",
    weights("mnist", 2): "439014f8c693ab0698d211e30485eec7b7993be94ae67c559acff82318bef9f3",
    CIFAR10: "6cc00daaf2ba159493841eac1491eea9bb19cb36de39761a96af09ade7b2fbc8",
    weights("cifar10", 1): "4ca2effe316b2078c87380eeee7f594e40e1c9217f198a245676018aee69a50a",
    weights("cifar10", 2): "acd700a3f0001330d223a105a16412a52ffeea6896269ccc975f5b5639e7ff70",
}


@pytest.fixture(scope="module")
def digits():
    """The digits' judge, and both splits' images, labels and features."""
    judge, data = ClassifierFeatures(DIGITS), DigitsDataModule()
    splits = {name: data.uint8_images(name) for name in ("train", "test")}
    return judge, splits, {name: extract(judge, images) for name, (images, _) in splits.items()}


@pytest.mark.parametrize("path", SHA256, ids=lambda path: path.stem)
def test_shipped_weights_are_these_small_and_accurate(path):
    judge = ClassifierFeatures(path)
    assert judge.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == SHA256[path]
    assert judge.name == path.stem.split("_")[0]  # a judge of another seed names the same scores
    least, size = (0.88, 1400) if judge.name == "cifar10" else (0.97, 256)
    assert judge.accuracy >= judge.min_accuracy == least
    assert path.stat().st_size < size * 1024


@pytest.mark.parametrize(
    ("path", "features", "logits"),
    [
        (DIGITS, [0.46175, -0.16894, 0.23213], [0.17987, -4.61245, -8.36678]),
        (MNIST, [3.94077, -1.78269, 1.52131], [0.23435, -17.20608, 11.93108]),
    ],
)
def test_outputs_are_those_recorded_before_classifiers_had_stages(path, features, logits):
    judge = ClassifierFeatures(path)
    number = torch.arange(judge.network.image_shape[1] ** 2)
    seen = judge.extract((number * number % 251).to(torch.uint8).view(1, *judge.network.image_shape))
    assert seen.features[0, :3].tolist() == pytest.approx(features, rel=1e-3)
    assert seen.logits[0, :3].tolist() == pytest.approx(logits, rel=1e-3)


@pytest.mark.parametrize(("stages", "hidden"), [(1, (8, 4 * 4)), (2, (8, 8 * 4)), (3, (8, 16 * 4))])
def test_a_stage_doubles_the_channels_and_halves_the_side(stages, hidden):
    network = FeatureClassifier((3, 32, 32), width=4, features=8, stages=stages)
    convolutions = [layer for layer in network.body if isinstance(layer, torch.nn.Conv2d)]
    channels = [4, 4, 8, 8, 16, 16][: 2 * stages]
    assert [c.out_channels for c in convolutions] == channels
    assert network.body[: 7 * stages](torch.zeros(2, 3, 32, 32)).shape == (2, channels[-1], *[32 >> stages] * 2)
    assert network.body[-1].weight.shape == hidden
    assert [tuple(x.shape) for x in network(torch.zeros(2, 3, 32, 32))] == [(2, 8), (2, 10)]


def test_real_test_digits_are_read(digits):
    judge, splits, features = digits
    accuracy = (features["test"].logits.argmax(1) == splits["test"][1]).double().mean().item()
    assert accuracy == pytest.approx(judge.accuracy) and accuracy >= 0.97
    reading = read(features["test"].logits)
    assert reading.confident > 0.98
    assert sum(reading.shares) == pytest.approx(1) and min(reading.shares) > 0.05


def test_features_of_the_training_split_are_standardised(digits):
    train = digits[2]["train"].features
    assert train.mean(0).abs().max() < 1e-4
    assert (train.std(0) - 1).abs().max() < 1e-4


def test_scores_tell_real_from_worse(digits):
    judge, splits, features = digits
    images, train = splits["test"][0], features["train"]

    def scored(images):
        result = score(judge, extract(judge, images), train, Source("test"), "train")
        values = result.distances | result.alone
        return {name: values[f"{name}_digits"] for name in ("fd", "kd", "cs", "precision", "recall", "confident")}

    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, images.shape, generator=generator, dtype=torch.uint8)
    real, nine_missing = scored(images), scored(images[splits["test"][1] != 9])
    shifted, memorised, garbage = scored(images.roll(1, 3)), scored(images[:20].repeat(18, 1, 1, 1)), scored(noise)
    assert real["fd"] < 0.5 and real["cs"] > 9 and real["precision"] > 0.8 and real["recall"] > 0.8
    assert abs(real["kd"]) < 0.1
    for worse in (nine_missing, shifted, memorised, garbage):
        assert worse["fd"] > 1.5 * real["fd"]
    assert nine_missing["cs"] < real["cs"] - 0.5
    assert memorised["recall"] < 0.5 < memorised["precision"]
    assert garbage["fd"] > 20 * real["fd"] and garbage["kd"] > 0.5 and garbage["recall"] < 0.2
    assert garbage["confident"] < 0.6  # no less: the share of confident readings never stands alone


def test_numbers_are_equal_on_both_sides_and_named_by_the_classifier(digits):
    judge, _, features = digits
    result = score(judge, features["test"], features["train"], Source("test"), "train")
    assert (result.protocol.images, result.protocol.reference_images) == (360, 360)
    assert all(
        "_digits" in name and not name.startswith(("fid", "kid", "is")) for name in result.distances | result.alone
    )
    assert result.protocol.features_sha256 == judge.sha256
    assert judge.default_images(1437) == 2000


def test_floor_rows_compare_real_with_real(digits):
    judge, _, features = digits
    test, half = floors(judge, features["train"], features["test"])
    assert (test.protocol.images, half.protocol.images) == (360, 718)
    assert half.distances["fd_digits"] < test.distances["fd_digits"]  # the bias in N alone


def test_obedience_to_labels_is_the_share_read_as_asked():
    judge = ClassifierFeatures(DIGITS)
    logits = 5 * torch.eye(10)[[0, 1, 2, 3]]
    values = judge.scores_alone(Features(torch.zeros(4, 32), logits), label=torch.tensor([0, 1, 2, 9]))
    assert values["obeyed_digits"] == 0.75
    assert "obeyed_digits" not in judge.scores_alone(Features(torch.zeros(4, 32), logits))


def test_reading_of_known_logits():
    sure, unsure = [0.0, 10.0, 0.0], [0.0, 0.0, 1.0]
    reading = read(torch.tensor([sure, sure, sure, unsure]))
    assert reading.confident == 0.75
    assert reading.shares == (0, 0.75, 0.25)
    p, q = torch.tensor(sure).double().softmax(0).max(), torch.tensor(unsure).double().softmax(0).max()
    assert reading.confidence == pytest.approx(float((3 * p + q) / 4))


def test_the_judge_is_chosen_by_image_shape():
    assert feature_network_for((1, 8, 8)).name == "digits"
    assert feature_network_for((1, 28, 28)).name == "mnist"
    with pytest.raises(ValueError, match=r"image_shape=\(2, 1, 1\)"):
        feature_network_for((2, 1, 1))


def test_data_that_the_judge_cannot_read_are_refused(digits):
    judge, splits, features = digits
    judge.check(features["test"], splits["test"][1])
    judge.check(features["test"], None)
    with pytest.raises(ValueError, match="choose other features"):
        judge.check(features["test"], 9 - splits["test"][1])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 1, 8, 8), "uint8"),
        (torch.zeros(0, 1, 8, 8, dtype=torch.uint8), "0 images"),
        (torch.zeros(2, 1, 9, 9, dtype=torch.uint8), r"reads \(1, 8, 8\)"),
    ],
)
def test_images_of_the_wrong_kind_are_refused(images, message, digits):
    with pytest.raises(ValueError, match=message):
        extract(digits[0], images)


def test_a_file_that_is_no_judge_is_refused(tmp_path):
    network = FeatureClassifier((1, 8, 8), width=2)
    tensors = {**network.state_dict(), "mean": torch.zeros(32), "std": torch.ones(32)}
    about = {"name": "poor", "image_shape": [1, 8, 8], "network": {"width": 2}, "test_accuracy": 0.9}
    save_file(tensors, tmp_path / "poor.safetensors", metadata={"classifier": json.dumps(about)})
    with pytest.raises(ValueError, match=r"test accuracy 0\.9000"):
        ClassifierFeatures(tmp_path / "poor.safetensors")
    about["min_accuracy"] = 0.9  # the file's own
    save_file(tensors, tmp_path / "fair.safetensors", metadata={"classifier": json.dumps(about)})
    assert ClassifierFeatures(tmp_path / "fair.safetensors").min_accuracy == 0.9
    assert ClassifierFeatures(DIGITS).min_accuracy == 0.97
    save_file(tensors, tmp_path / "bare.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    for name in ("bare", "text", "missing"):
        with pytest.raises(ValueError, match="not the weights of a feature classifier"):
            ClassifierFeatures(tmp_path / f"{name}.safetensors")


def test_importing_the_package_is_light():
    heavy = "{'torch_fidelity', 'torchmetrics', 'sklearn'} & {*sys.modules}"
    code = f"import evaluation.features, evaluation.generate, evaluation.scores, sys; print({heavy})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
