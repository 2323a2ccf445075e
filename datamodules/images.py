"""Any image data set, by path alone: folder, class folders, zip, parquet, Hugging Face data set."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from datamodules.encoded import EncodedImages, Fault, Limits, refuse
from datamodules.files import read_folder, read_zip, zip_folders
from datamodules.loader import generator
from datamodules.memory import InMemoryDataModule, Split
from datamodules.tables import is_hub_name, open_datasets, read_dataset, read_parquet

SPLITS = {"train": ("train",), "test": ("test", "validation", "val")}
"""What a split is called in a data set that names its splits."""
NAMES = (*SPLITS["train"], *SPLITS["test"])
SLOW = 100_000
"""Reading more images than this is announced."""


def open_images(path: str, split: str, limits: Limits, fault: Fault = refuse) -> EncodedImages | None:
    """The images of a split of what lies at a path; what it is decides how it is read.

    A folder or zip of sub-folders `train` and `test` (or `validation`, `val`), a folder of parquet files whose names
    begin so, and a Hugging Face data set name their splits. What does not is all "train".

    Args:
        path: a folder, zip archive or parquet file; a folder of parquet files or of a saved Hugging Face data set; or
            owner/name on the Hugging Face Hub.
        split: "train" or "test".
        limits: what is refused.
        fault: called for what cannot be used; what it does not refuse is left out.

    Returns:
        None if there is no such split.

    Raises:
        ValueError: there is nothing that can be read.
    """
    if not path or "\0" in path:
        raise ValueError(f"path={path!r}: no such file or folder")
    place = Path(path).expanduser()
    if place.is_dir():
        return _open_folder(place, split, limits, fault)
    if place.is_file():
        with place.open("rb") as file:
            if file.read(4) == b"PAR1":
                return read_parquet([place], limits, fault) if split == "train" else None
        if zipfile.is_zipfile(place):
            return _open_parts(
                zip_folders(place), split, lambda part: read_zip(place, limits, part and f"{part}/", fault)
            )
        raise ValueError(f"path={path!r}: neither a zip archive nor a parquet file")
    if not is_hub_name(path) or place.parent.is_dir():
        raise ValueError(f"path={path!r}: no such file or folder")
    return _open_dataset(path, path, split, limits, fault)


def _open_folder(folder: Path, split: str, limits: Limits, fault: Fault) -> EncodedImages | None:
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return _open_dataset(str(folder), str(folder), split, limits, fault)
    tables = sorted(folder.glob("*.parquet")) or sorted((folder / "data").glob("*.parquet"))
    if tables:
        by_name = {name: [t for t in tables if _begins(t.name, name)] for name in NAMES}
        if not any(by_name.values()):
            return read_parquet(tables, limits, fault) if split == "train" else None
        chosen = next((by_name[name] for name in SPLITS[split] if by_name[name]), None)
        return None if chosen is None else read_parquet(chosen, limits, fault)
    parts = {f.name for f in folder.iterdir() if f.is_dir() and not f.name.startswith(".")}
    return _open_parts(parts, split, lambda part: read_folder(folder / part, limits, fault))


def _open_parts(parts: set[str], split: str, read: Callable[[str], EncodedImages]) -> EncodedImages | None:
    """The split of a tree whose top-level folders are `parts`: one of them, or all ("") if they are no splits."""
    if "train" in parts and parts <= set(NAMES):
        part = next((name for name in SPLITS[split] if name in parts), None)
        return None if part is None else read(part)
    return read("") if split == "train" else None


def _begins(name: str, split: str) -> bool:
    return name.startswith((f"{split}.", f"{split}-", f"{split}_"))


def _open_dataset(path: str, source: str, split: str, limits: Limits, fault: Fault) -> EncodedImages | None:
    splits = open_datasets(path)
    chosen = next((name for name in SPLITS[split] if name in splits), None)
    if chosen is None and split == "train":
        raise ValueError(f"path={path!r}: its splits are {', '.join(splits)}, and none is called train")
    return None if chosen is None else read_dataset(splits[chosen], f"{source} ({chosen})", limits, fault)


class ImageDataModule(InMemoryDataModule):
    """Images by path alone, decoded once into memory as uint8.

    `path` may be a folder (class folders give labels, sorted by name; EDM's `dataset.json` takes precedence), a zip
    archive of the same content, a parquet file of the Hugging Face layout, a folder of such, a data set that Hugging
    Face's `save_to_disk` wrote, or owner/name on the Hugging Face Hub. Images are cut to the central square, resized
    (Lanczos) and made grey or RGB.

    The test split is `test_path`; or the data set's own test split if it names one; or a fraction `holdout` of the
    images, the same whatever the run's seed. Without any of these nothing is held out: the test split is the training
    split, and `fit` says so.

    Args:
        path: where the images are.
        resolution: side in pixels.
        channels: 1 (grey) or 3 (RGB).
        batch_size: of the global batch.
        seed: of the order and the flips, >= 0.
        num_classes: classes given to the model, 0 for an unconditional one.
        test_path: held-out images, of any kind that `path` may be.
        holdout: fraction of the images held out, in [0, 1).
        flip: mirror training images with probability 1/2.
        limits: what is refused.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        path: str,
        resolution: int,
        channels: int = 3,
        batch_size: int = 128,
        seed: int = 0,
        num_classes: int = 0,
        test_path: str | None = None,
        holdout: float = 0.0,
        flip: bool = False,
        limits: Limits | None = None,
    ):
        super().__init__(batch_size, seed, flip)
        self.save_hyperparameters(ignore="limits", logger=False)  # a checkpoint holds plain values only
        if resolution < 1:
            raise ValueError(f"resolution={resolution}: it must be at least 1")
        if channels not in (1, 3):
            raise ValueError(f"channels={channels}: allowed are 1 (grey) and 3 (RGB)")
        if num_classes < 0:
            raise ValueError(f"num_classes={num_classes}: it must be at least 0, which is an unconditional model")
        if not 0 <= holdout < 1:
            raise ValueError(f"holdout={holdout}: allowed is a fraction from 0 up to, but not including, 1")
        if holdout and test_path is not None:
            raise ValueError(f"holdout={holdout} and test_path={test_path!r}: give one of them")
        self.path, self.test_path, self.holdout = path, test_path, holdout
        self.num_classes, self.limits = num_classes, limits or Limits()
        self.image_shape = (channels, resolution, resolution)
        self.source = path
        self._parts: dict[str, Split] = {}

    def load_split(self, split: str) -> Split:
        train = open_images(self.path, "train", self.limits)
        if train is None:
            raise ValueError(f"path={self.path!r}: it has no training split")
        self.class_names = train.class_names
        if train.ignored:
            self.source = f"{self.path} ({train.ignored:,} other files ignored)"
        test = self._test_images()
        if split == "test" and test is not None:
            images, labels = self._decode(test)
            return images, _renumbered(labels, test, train)
        if self.holdout:
            if test is not None:
                raise ValueError(f"holdout={self.holdout}: {self.path} has a test split of its own")
            self._parts = self._parts or self._cut(*self._decode(train))
            return self._parts[split]
        return self._decode(train) if split == "train" else self.split("train")

    def _test_images(self) -> EncodedImages | None:
        if self.test_path is None:
            return open_images(self.path, "test", self.limits)
        return open_images(self.test_path, "test", self.limits) or open_images(self.test_path, "train", self.limits)

    def _decode(self, images: EncodedImages) -> Split:
        if images.count > SLOW:
            rank_zero_only(print)(f"reading {images.count:,} images of {images.source} into memory", flush=True)
        return images.decode(self.image_shape[1], self.image_shape[0], self.limits)

    def _cut(self, images: Tensor, labels: Tensor | None) -> dict[str, Split]:
        """Hold out a fraction, drawn without regard to the run's seed."""
        held_out = round(self.holdout * len(images))
        if not 0 < held_out < len(images):
            raise ValueError(
                f"holdout={self.holdout}: of {len(images)} images {held_out} are held out; both splits need one"
            )
        order = torch.from_numpy(generator(0, "held out").permutation(len(images)))
        rows = {"test": order[:held_out].sort().values, "train": order[held_out:].sort().values}
        return {split: (images[r], None if labels is None else labels[r]) for split, r in rows.items()}


def _renumbered(labels: Tensor | None, test: EncodedImages, train: EncodedImages) -> Tensor | None:
    """Labels of the test split as the training split numbers its classes; a folder that lacks one numbers on."""
    if labels is None or test.class_names is None or train.class_names is None:
        return labels
    unknown = sorted(set(test.class_names) - set(train.class_names))
    if unknown:
        raise ValueError(f"{test.source}: class {unknown[0]} is not among those of {train.source}")
    return torch.tensor([train.class_names.index(name) for name in test.class_names])[labels]
