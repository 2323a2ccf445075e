"""Scores of generated images against real ones, and the same scores of real images, which are their floor."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evaluation.features import FeatureNetwork, Features
from evaluation.protocol import Protocol, Source, library_versions

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
    protocol = Protocol(
        images=n,
        reference=split,
        reference_images=m,
        features=network.name,
        features_sha256=network.sha256,
        resize=network.resize,
        quantisation=QUANTISATION,
        images_alone=len(judged),
        libraries=library_versions(),
        source=source,
    )
    return Score(distances, network.scores_alone(judged, label), protocol)


def floors(
    network: FeatureNetwork,
    train: Features,
    test: Features,
    device: torch.device | str = "cpu",
    most: int | None = None,
) -> list[Score]:
    """What real images score: the test split against the training split, and half of the latter against the rest.

    At these numbers of images no model can be expected to do better. At most `most` images are judged in each, as many
    as of a model, so that the rows compare, and since the memory of precision and recall grows with the square.
    """
    half = len(train) // 2 if most is None else min(len(train) // 2, most)
    test = test if most is None else test.subset(most)
    one, other = train.shuffled().first(half), train.shuffled().last(half)
    return [
        score(network, test, train, Source("real: test"), "train", device=device),
        score(network, one, other, Source("real: half of train"), "other half", device=device),
    ]
