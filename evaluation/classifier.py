"""Small classifiers that judge images without a download: digits, MNIST and CIFAR-10.

They saw the real training split alone (benchmarks/train_feature_classifier.py), ship with the package, and name
their scores: fd_digits is a Frechet distance between their features and is never called FID. That of CIFAR-10 saw
re-encoded images, "CIFAR-10 (JPEG)"; fd_cifar10 is not comparable with a published number.
"""

import hashlib
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.pixels import from_uint8
from evaluation.distances import Moments, frechet_distance, inception_score, kernel_distance, precision_recall
from evaluation.features import FeatureNetwork, Features

SEEDS = (0, 1, 2)
"""Of the classifiers that ship for each kind of image; the first one's scores are those that are told alone."""

CONFIDENT = 0.9
"""An image counts as read when its most likely class has more than this probability."""
MIN_ACCURACY = 0.97
"""A classifier that reads fewer real test images is refused as a judge, unless its file holds another least share."""


def weights(name: str, seed: int = 0) -> Path:
    """The file of the classifier called `name` ("digits", "mnist" or "cifar10") that was trained from a seed."""
    return Path(__file__).parent / "weights" / f"{name}{f'_seed{seed}' if seed else ''}.safetensors"


DIGITS, MNIST, CIFAR10 = weights("digits"), weights("mnist"), weights("cifar10")


class FeatureClassifier(nn.Module):
    """Stages of two 3x3 convolutions and a max-pooling, then one hidden layer.

    Its features are the hidden layer's values *before* the ReLU: after it, many are exactly zero, and a Gaussian fits
    them badly.

    Args:
        image_shape: (C, H, W), H and W at least 2^stages.
        width: channels of the first stage; each further stage has twice as many.
        features: d, size of the hidden layer.
        num_classes: K.
        pool: side of the grid that the last activations are averaged to.
        stages: how often height and width are halved.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        width: int,
        features: int = 32,
        num_classes: int = 10,
        pool: int = 2,
        stages: int = 2,
    ):
        super().__init__()
        self.image_shape = tuple(image_shape)
        channels = (image_shape[0], *(width * 2 ** (i // 2) for i in range(2 * stages)))
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(channels)):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            if i % 2:
                layers.append(nn.MaxPool2d(2))
        hidden = nn.Linear(channels[-1] * pool**2, features)
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(pool), nn.Flatten(), hidden)
        self.head = nn.Linear(features, num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) in [-1, 1] -> features (B, d) and logits (B, K)."""
        features = self.body(x)
        return features, self.head(F.relu(features))


@dataclass(frozen=True)
class Reading:
    """How a classifier reads a set of images."""

    confident: float
    """Share read with a probability above `CONFIDENT`."""
    confidence: float
    """Mean probability of the most likely class."""
    shares: tuple[float, ...]
    """Share of each class among the most likely ones."""


def read(logits: Tensor) -> Reading:
    """Summarise the logits (N, K) of a set of images."""
    probability, label = logits.double().softmax(1).max(1)
    counts = torch.bincount(label, minlength=logits.shape[1])
    return Reading(
        float((probability > CONFIDENT).double().mean()),
        float(probability.mean()),
        tuple((counts.double() / len(label)).tolist()),
    )


class ClassifierFeatures(FeatureNetwork):
    """A shipped classifier as a feature network, its features standardised by the real training split.

    Args:
        path: a safetensors file written by benchmarks/train_feature_classifier.py.

    Raises:
        ValueError: if the file is missing, is no such file, or its classifier is not accurate enough.
    """

    resize = "none"

    def __init__(self, path: str | Path):
        super().__init__()
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads((file.metadata() or {})["classifier"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (OSError, SafetensorError, KeyError) as error:
            raise ValueError(f"{path}: not the weights of a feature classifier ({error})") from None
        self.sha256 = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        self.name: str = about["name"]
        self.accuracy: float = about["test_accuracy"]
        self.min_accuracy: float = about.get("min_accuracy", MIN_ACCURACY)
        if self.accuracy < self.min_accuracy:
            raise ValueError(f"{path}: test accuracy {self.accuracy:.4f}, a judge needs at least {self.min_accuracy}")
        self.register_buffer("mean", tensors.pop("mean"))
        self.register_buffer("std", tensors.pop("std"))
        self.network = FeatureClassifier(tuple(about["image_shape"]), **about["network"])
        self.network.load_state_dict(tensors)
        self.size = self.network.head.in_features
        self.eval().requires_grad_(False)

    def extract(self, images: Tensor) -> Features:
        """z-scored features and logits of images (B, C, H, W) uint8."""
        if tuple(images.shape[1:]) != self.network.image_shape:
            shape, allowed = tuple(images.shape[1:]), self.network.image_shape
            raise ValueError(f"images of shape {shape}: the {self.name} classifier reads {allowed}")
        features, logits = self.network(from_uint8(images))
        return Features((features - self.mean) / self.std, logits)

    def check(self, real: Features, label: Tensor | None) -> None:
        """Raise ValueError if real images (N) with labels (N,) are read with less than `min_accuracy`."""
        if label is None:
            return
        accuracy = float((real.logits.argmax(1) == label).double().mean())
        if accuracy < self.min_accuracy:
            raise ValueError(
                f"the {self.name} classifier reads {accuracy:.1%} of these test images right and a judge needs "
                f"{self.min_accuracy:.0%}: choose other features (for images in colour Inception's, by "
                "--inception_weights PATH)"
            )

    def default_images(self, reference: int) -> int:
        """2,000, whatever the data."""
        return 2000

    def compared(self, judged: int, reference: int) -> tuple[int, int]:
        """Equal numbers, since all distances are biased in N."""
        return (min(judged, reference),) * 2

    def scores_alone(self, judged: Features, label: Tensor | None = None) -> dict[str, float]:
        """cs_* = exp E KL(p(y|x) || p(y)) over the whole set, and how the images are read."""
        reading = read(judged.logits)
        values = {
            f"cs_{self.name}": inception_score(judged.logits, splits=1),
            f"confident_{self.name}": reading.confident,
            f"confidence_{self.name}": reading.confidence,
        }
        if label is not None:
            values[f"obeyed_{self.name}"] = float((judged.logits.argmax(1) == label).double().mean())
        return values | {f"share_{self.name}/{k}": share for k, share in enumerate(reading.shares)}

    def scores_by_moments(self, judged: Features, reference: Moments) -> dict[str, float]:
        """fd_* (Frechet)."""
        return {f"fd_{self.name}": frechet_distance(judged.moments, reference)}

    def scores_against(
        self, judged: Features, reference: Features, device: torch.device | str = "cpu"
    ) -> dict[str, float]:
        """fd_* (Frechet), kd_* (kernel, the whole sets), precision_* and recall_* (k = 3)."""
        precision, recall = precision_recall(judged.features, reference.features, 3, device)
        return self.scores_by_moments(judged, reference.moments) | {
            f"kd_{self.name}": kernel_distance(judged.features, reference.features),
            f"precision_{self.name}": precision,
            f"recall_{self.name}": recall,
        }
