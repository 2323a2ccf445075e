"""Feature networks: what turns uint8 images into the features and logits that scores are made of."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from evaluation.distances import Moments, moments
from evaluation.gather import gather_strided, strided


@dataclass(frozen=True)
class Features:
    """Features (N, d) and logits (N, K) of N images, on the CPU."""

    features: Tensor
    logits: Tensor
    known_moments: Moments | None = field(default=None, repr=False)
    """Of these features, where they were computed before."""

    @cached_property
    def moments(self) -> Moments:
        """Mean and covariance, computed once."""
        return self.known_moments or moments(self.features)

    def __len__(self) -> int:
        return len(self.features)

    def at(self, rows: Tensor) -> "Features":
        """The images at rows (M,) int64."""
        return Features(self.features[rows], self.logits[rows])

    def first(self, n: int) -> "Features":
        """The first n images."""
        return Features(self.features[:n], self.logits[:n]) if n < len(self) else self

    def last(self, n: int) -> "Features":
        """The last n images."""
        return Features(self.features[-n:], self.logits[-n:])

    def shuffled(self) -> "Features":
        """The images in a fixed random order."""
        return self.at(torch.randperm(len(self), generator=torch.Generator().manual_seed(0)))

    def subset(self, n: int) -> "Features":
        """n images at random, always the same, so that a set sorted by class gives a fair part."""
        return self.shuffled().first(n) if n < len(self) else self


class FeatureNetwork(nn.Module, ABC):
    """A network that judges images, and the scores that are named after it."""

    name: str
    """What protocols and score names call it."""
    sha256: str
    """The SHA-256 of its weights file."""
    size: int
    """d, the number of features."""
    resize: str
    """How images reach its input size, in words."""

    @abstractmethod
    def extract(self, images: Tensor) -> Features:
        """Features of images (B, C, H, W) uint8 on the network's device."""

    @abstractmethod
    def check(self, real: Features, label: Tensor | None) -> None:
        """Raise ValueError if the network cannot read real images (N) with labels (N,)."""

    @abstractmethod
    def default_images(self, reference: int) -> int:
        """How many images to generate when nobody says, given the size of the training split."""

    @abstractmethod
    def compared(self, judged: int, reference: int) -> tuple[int, int]:
        """How many of the judged and of the reference images enter the distances."""

    @abstractmethod
    def scores_alone(self, judged: Features, label: Tensor | None = None) -> dict[str, float]:
        """Scores that need no reference; `label` (N,) are the classes that were asked for."""

    @abstractmethod
    def scores_by_moments(self, judged: Features, reference: Moments) -> dict[str, float]:
        """The distances to a reference set of which mean and covariance alone are known."""

    @abstractmethod
    def scores_against(
        self, judged: Features, reference: Features, device: torch.device | str = "cpu"
    ) -> dict[str, float]:
        """All distances to a reference set, those by moments first."""


@torch.inference_mode()
def extract(
    network: FeatureNetwork,
    images: Tensor,
    batch_size: int = 500,
    device: torch.device | str = "cpu",
) -> Features:
    """Features of images (N, C, H, W) uint8, each process taking its share and all getting the whole.

    Args:
        network: the judge; it is moved to `device`.
        images: all N images, the same on every process.
        batch_size: images per forward pass.
        device: where the network runs.
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(f"images of dtype {images.dtype}, shape {tuple(images.shape)}: uint8 (N, C, H, W) is needed")
    if len(images) == 0 or batch_size < 1:
        raise ValueError(f"{len(images)} images, batch_size={batch_size}: both must be at least 1")
    network.to(device)
    mine = strided(torch.arange(len(images)))
    parts = [network.extract(images[rows].to(device)) for rows in mine.split(batch_size)]
    features = gather_strided(torch.cat([p.features for p in parts]), len(images))
    logits = gather_strided(torch.cat([p.logits for p in parts]), len(images))
    return Features(features.cpu(), logits.cpu())


def feature_network_for(
    image_shape: tuple[int, int, int], inception_weights: str | Path | None = None
) -> FeatureNetwork:
    """The judge of images of a shape: a shipped classifier for 8x8 and 28x28 grey, Inception for all others.

    Where Inception's weights are neither given nor in the cache, 3x32x32 images are judged by the classifier of
    "CIFAR-10 (JPEG)". Its scores are called fd_cifar10 and so on, never FID, and its `check` refuses other data.

    Args:
        image_shape: (C, H, W).
        inception_weights: file of Inception weights; without it torch-fidelity's cache is looked into.
    """
    from evaluation.classifier import CIFAR10, DIGITS, MNIST, ClassifierFeatures
    from evaluation.inception import InceptionFeatures, cached_weights

    match tuple(image_shape):
        case (1, 8, 8):
            return ClassifierFeatures(DIGITS)
        case (1, 28, 28):
            return ClassifierFeatures(MNIST)
        case (3, 32, 32) if inception_weights is None and not cached_weights().is_file() and CIFAR10.is_file():
            return ClassifierFeatures(CIFAR10)
        case (1 | 3, _, _):
            return InceptionFeatures(inception_weights)
        case shape:
            raise ValueError(f"image_shape={shape}: scores are defined for images with 1 or 3 channels")
