"""Scores of generated images against real ones, and the same scores of real images, which are their floor."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evaluation.features import FeatureNetwork, Features
from evaluation.protocol import Protocol, Source, library_versions
from evaluation.reference import Reference

QUANTISATION = "uint8 = clip(127.5 x + 128)"


@dataclass(frozen=True)
class Score:
    """Numbers by name, and how they were made."""

    distances: dict[str, float]
    """To the reference."""
    alone: dict[str, float]
    """Of the judged images by themselves, whatever the reference."""
    protocol: Protocol

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a JSON file."""
        return {"distances": self.distances, "alone": self.alone, "protocol": self.protocol.as_dict()}


def score(
    network: FeatureNetwork,
    judged: Features,
    reference: Features,
    source: Source,
    split: str,
    label: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> Score:
    """All scores of one set of images against one reference.

    Args:
        network: the judge that made both sets of features.
        judged: of the images that are judged; distances take the first of them.
        reference: of the real images; if distances take a part of them, it is a random one, always the same.
        source: what made the judged images.
        split: name of the reference.
        label: the classes (N,) that were asked for, or None.
        device: where the larger distance matrices are computed.
    """
    n, m = network.compared(len(judged), len(reference))
    distances = network.scores_against(judged.first(n), reference.subset(m), device)
    return Score(distances, network.scores_alone(judged, label), _protocol(network, n, len(judged), split, m, source))


def score_by_moments(
    network: FeatureNetwork, judged: Features, reference: Reference, source: Source, label: Tensor | None = None
) -> Score:
    """The scores of one set of images for which mean and covariance of the reference are enough.

    Args:
        network: the judge that made the features of both.
        judged: of the images that are judged; the first of them, as many as the reference has where that is the rule.
        reference: read from a file.
        source: what made the judged images.
        label: the classes (N,) that were asked for, or None.
    """
    n, _ = network.compared(len(judged), reference.images or len(judged))
    return Score(
        network.scores_by_moments(judged.first(n), reference.moments),
        network.scores_alone(judged, label),
        _protocol(network, n, len(judged), reference.name, reference.images, source),
    )


def _protocol(
    network: FeatureNetwork, images: int, alone: int, reference: str, reference_images: int | None, source: Source
) -> Protocol:
    return Protocol(
        images=images,
        reference=reference,
        reference_images=reference_images,
        features=network.name,
        features_sha256=network.sha256,
        resize=network.resize,
        quantisation=QUANTISATION,
        images_alone=alone,
        libraries=library_versions(),
        source=source,
    )


def floors(
    network: FeatureNetwork,
    train: Features,
    test: Features,
    device: torch.device | str = "cpu",
    most: int | None = None,
    reference: Reference | None = None,
) -> list[Score]:
    """What real images score: the test split against the training split, and half of the latter against the rest.

    At these numbers of images no model can be expected to do better. At most `most` images are judged in each, as many
    as of a model, so that the rows compare, and since the memory of precision and recall grows with the square. With a
    reference from a file, the test split is scored against that as well.
    """
    half = len(train) // 2 if most is None else min(len(train) // 2, most)
    test = test if most is None else test.subset(most)
    one, other = train.shuffled().first(half), train.shuffled().last(half)
    rows = [
        score(network, test, train, Source("real: test"), "train", device=device),
        score(network, one, other, Source("real: half of train"), "other half", device=device),
    ]
    return rows if reference is None else [*rows, score_by_moments(network, test, reference, Source("real: test"))]
