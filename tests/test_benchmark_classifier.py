"""Training of the shipped classifiers, small: what is drawn, what is written, and who judges 3x32x32 images then."""

import io
import json
from copy import deepcopy
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from benchmarks.train_feature_classifier import COLUMNS, RECIPES, FlipAndShift, outputs, parquet, train, write
from diffusion.pixels import from_uint8
from evaluation import classifier
from evaluation.classifier import MIN_ACCURACY, ClassifierFeatures, FeatureClassifier
from evaluation.features import Features, extract, feature_network_for
from evaluation.inception import FILE_NAME
from evaluation.judges import judges_for

SHAPE = (3, 32, 32)
SMALL = replace(RECIPES["cifar10"], width=4, features=8, epochs=8, batch_size=8, max_lr=0.03, min_accuracy=0.0)


def fake(n, seed):
    """Images of two classes, dark and bright."""
    label = torch.arange(n) % 2
    noise = torch.randint(0, 100, (n, *SHAPE), generator=torch.Generator().manual_seed(seed))
    return (noise + 150 * label[:, None, None, None]).to(torch.uint8), label


@pytest.fixture(scope="module")
def trained():
    return train(*fake(40, seed=0), SMALL)


def file_in(folder, network, seed=0):
    """The file of a network as the benchmark writes it, which is left as it is."""
    path = folder / classifier.weights("cifar10", seed).name
    write(path, "cifar10", deepcopy(network), replace(SMALL, seed=seed), fake(40, seed=0)[0], fake(20, seed=1))
    return path


@pytest.fixture
def shipped(trained, tmp_path, monkeypatch):
    """The folder of three judges in place of the shipped ones, and an empty cache of torch.hub."""
    path, others = file_in(tmp_path, trained), [FeatureClassifier(SHAPE, **SMALL.network).eval() for _ in "12"]
    for seed, network in enumerate(others, 1):
        file_in(tmp_path, network, seed)
    name_of = classifier.weights
    monkeypatch.setattr(classifier, "weights", lambda *args: tmp_path / name_of(*args).name)
    monkeypatch.setattr(classifier, "CIFAR10", path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path


def test_training_lowers_the_loss_and_is_a_function_of_the_seed(trained):
    images, label = fake(40, seed=0)
    logits = outputs(trained, fake(20, seed=1)[0])[1]
    assert torch.nn.functional.cross_entropy(logits, fake(20, seed=1)[1]) < 0.5  # of 2.3 = log 10 before
    again, other = train(images, label, SMALL), train(images, label, replace(SMALL, seed=1))
    assert torch.equal(again.head.weight, trained.head.weight)
    assert not torch.equal(other.head.weight, trained.head.weight)


def test_images_are_mirrored_and_moved_by_whole_pixels():
    x = torch.arange(2.0 * 6 * 7).view(1, 2, 6, 7).expand(200, -1, -1, -1)
    made = FlipAndShift(2)(x, torch.Generator().manual_seed(0))
    assert made.shape == x.shape
    padded = torch.nn.functional.pad(x[:1], (2, 2, 2, 2), mode="reflect")[0]
    possible = [padded[:, i : i + 6, j : j + 7] for i in range(5) for j in range(5)]
    possible += [p.flip(2) for p in possible]
    drawn = [[torch.equal(p, image) for p in possible] for image in made]
    assert all(any(row) for row in drawn)
    assert len({row.index(True) for row in drawn}) > 40  # of 50
    assert torch.equal(
        FlipAndShift(0)(x, torch.Generator().manual_seed(0)).unique(dim=0), torch.stack([x[0], x[0].flip(2)])
    )


def test_weights_are_stored_as_float16_and_read_back_as_they_were_measured(trained, tmp_path):
    images, (test, label) = fake(40, seed=0)[0], fake(20, seed=1)
    path = file_in(tmp_path / "new", trained)
    judge = ClassifierFeatures(path)
    with safe_open(path, "pt") as file:
        kinds = {key: file.get_tensor(key).dtype for key in file.keys()}  # noqa: SIM118 (not a dict)
        about = json.loads(file.metadata()["classifier"])
    whole = {"mean", "std"} | {key for key in kinds if key.endswith("num_batches_tracked")}
    assert all(kinds[key] == torch.float16 for key in kinds if key not in whole)
    assert kinds["mean"] == kinds["std"] == torch.float32
    assert all(p.dtype == torch.float32 for p in judge.parameters())
    for ours, before in zip(judge.network.parameters(), trained.parameters(), strict=True):
        assert torch.equal(ours, before.half().float())
    seen = extract(judge, test)
    assert judge.accuracy == (seen.logits.argmax(1) == label).double().mean().item() == about["test_accuracy"]
    standardised = extract(judge, images).features
    assert standardised.mean(0).abs().max() < 1e-4 and (standardised.std(0) - 1).abs().max() < 1e-4
    assert about["recipe"]["augment"] == {"shift": 4} and about["network"] == SMALL.network


def test_below_the_least_accuracy_of_the_recipe_nothing_is_written(tmp_path):
    network = FeatureClassifier(SHAPE, **SMALL.network).eval()
    torch.nn.init.zeros_(network.head.weight)
    with pytest.raises(SystemExit, match="nothing is written"):
        write(tmp_path / "c", "cifar10", network, replace(SMALL, min_accuracy=0.88), fake(4, 0)[0], fake(20, seed=1))
    assert not list(tmp_path.iterdir())
    assert {name: recipe.min_accuracy for name, recipe in RECIPES.items()} == {
        "digits": MIN_ACCURACY,
        "mnist": MIN_ACCURACY,
        "cifar10": 0.88,
    }


def test_the_least_accuracy_of_the_file_is_obeyed(trained, tmp_path):
    path = tmp_path / "c.safetensors"
    write(path, "cifar10", deepcopy(trained), replace(SMALL, min_accuracy=0.6), fake(40, seed=0)[0], fake(20, seed=1))
    judge = ClassifierFeatures(path)
    assert judge.min_accuracy == 0.6
    label = torch.arange(10)
    real = Features(torch.zeros(10, 8), torch.eye(10))
    judge.check(real, label.clamp(max=5))  # 6 of 10 are right
    with pytest.raises(ValueError, match=r"reads 50\.0% .* 60%: choose other features .*--inception_weights PATH") as e:
        judge.check(real, label.clamp(max=4))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(("name", "mode"), [("mnist", "L"), ("cifar10", "RGB")])
def test_parquet_is_read(name, mode, tmp_path):
    size = {"L": (28, 28), "RGB": (32, 32)}[mode]
    pictures = [Image.new(mode, size, color) for color in ("black", "red")]
    files = [io.BytesIO() for _ in pictures]
    for picture, file in zip(pictures, files, strict=True):
        picture.save(file, "PNG")
    column, _ = COLUMNS[name]
    table = pa.table({column: [{"bytes": f.getvalue(), "path": None} for f in files], "label": [3, 7]})
    pq.write_table(table, tmp_path / "data.parquet")
    images, label = parquet(tmp_path / "data.parquet", *COLUMNS[name])
    assert images.dtype == torch.uint8 and label.tolist() == [3, 7]
    assert images.shape == (2, len(mode), *size)
    assert images[1, :, 0, 0].tolist() == ([76] if mode == "L" else [255, 0, 0])


def test_the_shipped_recipe_is_small_enough():
    network = FeatureClassifier(SHAPE, **RECIPES["cifar10"].network).eval()
    features, logits = network(from_uint8(fake(2, seed=0)[0]))
    assert features.shape == (2, 64) and logits.shape == (2, 10)
    assert 2 * sum(tensor.numel() for tensor in network.state_dict().values()) < 1.5 * 2**20


def test_the_classifier_judges_where_inception_has_no_weights(shipped, monkeypatch):
    judges = judges_for(SHAPE)
    assert [judge.name for judge in judges] == ["cifar10"] * 3 and len({judge.sha256 for judge in judges}) == 3
    assert feature_network_for(SHAPE).sha256 == judges[0].sha256
    values = judges[0].scores_against(*[extract(judges[0], fake(20, seed)[0]) for seed in (1, 2)])
    assert list(values) == ["fd_cifar10", "kd_cifar10", "precision_cifar10", "recall_cifar10"]
    with pytest.raises(ValueError, match="--inception_weights PATH"):
        feature_network_for((3, 64, 64))
    monkeypatch.setattr(classifier, "CIFAR10", shipped / "absent")
    with pytest.raises(ValueError, match="--inception_weights PATH"):
        judges_for(SHAPE)


def test_inception_judges_where_it_has_weights(shipped):
    with pytest.raises(ValueError, match=r"nowhere\.pth: no such file"):
        feature_network_for(SHAPE, shipped / "nowhere.pth")
    (shipped / "checkpoints").mkdir()
    (shipped / "checkpoints" / FILE_NAME).write_bytes(b"half a file")
    with pytest.raises(ValueError, match="damaged"):  # Inception was asked, and not the classifier
        judges_for(SHAPE)
