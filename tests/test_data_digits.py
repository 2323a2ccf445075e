"""The embedded digits, and what every datamodule in memory says and refuses."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from datamodules import DigitsDataModule
from datamodules.loader import to_float
from datamodules.memory import InMemoryDataModule, Split


def test_the_splits_are_stratified_and_complete() -> None:
    data = DigitsDataModule()
    (train, train_labels), (test, test_labels) = data.uint8_images("train"), data.uint8_images("test")
    assert train.shape == (1437, 1, 8, 8) and test.shape == (360, 1, 8, 8)
    assert train.dtype == test.dtype == torch.uint8 and train_labels.dtype == torch.int64
    every = torch.bincount(torch.cat([train_labels, test_labels]))
    assert torch.equal(every, torch.bincount(torch.from_numpy(load_digits().target)))
    assert ((torch.bincount(test_labels) - every * 360 / 1797).abs() < 1).all()


def test_pixels_are_the_seventeen_grey_values() -> None:
    train, test = (DigitsDataModule().uint8_images(split)[0] for split in ("train", "test"))
    both = torch.cat([train, test]).flatten(1)
    values = torch.from_numpy(load_digits().images).flatten(1)
    expected = (127.5 * (values / 8 - 1) + 128).clip(0, 255).floor().to(torch.uint8)
    assert sorted(both.tolist()) == sorted(expected.tolist())
    assert to_float(both).unique().numel() == 17 and to_float(both).min() == -1 and to_float(both).max() == 1


def test_the_split_depends_on_its_own_seed_alone() -> None:
    first = DigitsDataModule(seed=0).uint8_images("test")[0]
    assert torch.equal(first, DigitsDataModule(seed=1).uint8_images("test")[0])
    assert not torch.equal(first, DigitsDataModule(split_seed=1).uint8_images("test")[0])


def test_shape_and_classes_are_known_before_reading() -> None:
    data = DigitsDataModule(conditional=True)
    assert (data.image_shape, data.num_classes) == ((1, 8, 8), 10)
    assert DigitsDataModule().num_classes == 0
    x0, label = next(iter(DigitsDataModule(batch_size=32, conditional=True).train_dataloader()))
    assert x0.shape == (32, 1, 8, 8) and x0.dtype == torch.float32 and label.dtype == torch.int64


def test_fit_says_what_the_data_are(capsys: pytest.CaptureFixture[str]) -> None:
    DigitsDataModule(conditional=True).setup("fit")
    said = capsys.readouterr().out
    assert len(said.splitlines()) == 1
    for part in ("1,437", "360", "1 x 8 x 8", "0: 142,", "9: 144"):
        assert part in said


class Labelled(InMemoryDataModule):
    """Two images with the given labels."""

    image_shape = (1, 1, 1)
    source = "two images"

    def __init__(self, labels: Tensor | None, num_classes: int):
        super().__init__(batch_size=2)
        self.labels, self.num_classes = labels, num_classes

    def load_split(self, split: str) -> Split:
        return torch.zeros(2, 1, 1, 1, dtype=torch.uint8), self.labels


def test_a_conditional_model_needs_labels_in_range() -> None:
    with pytest.raises(ValueError, match="num_classes=3: the train split of two images has no labels"):
        Labelled(None, 3).split("train")
    with pytest.raises(ValueError, match=r"num_classes=3: .* labels from 0 to 3"):
        Labelled(torch.tensor([0, 3]), 3).split("train")
    assert Labelled(None, 0).split("train")[1] is None


@pytest.mark.parametrize("bad", [{"batch_size": 0}, {"batch_size": -4}, {"seed": -1}])
def test_bad_sizes_are_refused(bad: dict[str, int]) -> None:
    (name, value), *_ = bad.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        DigitsDataModule(**bad)


def test_there_are_two_splits() -> None:
    with pytest.raises(ValueError, match=r"'valid'.*'train' and 'test'"):
        DigitsDataModule().split("valid")
