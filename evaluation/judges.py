"""Several judges of the same images: how much of a score is the choice of the classifier."""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evaluation.features import FeatureNetwork, feature_network_for
from evaluation.scores import Score


def judges_for(image_shape: tuple[int, int, int], inception_weights: str | Path | None = None) -> list[FeatureNetwork]:
    """All judges of images of a shape: Inception alone, or a shipped classifier of each of three seeds.

    The first is `feature_network_for` the shape; the others are of the same recipe, from other seeds.

    Args:
        image_shape: (C, H, W).
        inception_weights: file of Inception's weights, or None.
    """
    from evaluation.classifier import SEEDS, ClassifierFeatures, weights

    first = feature_network_for(image_shape, inception_weights)
    if not isinstance(first, ClassifierFeatures):
        return [first]
    return [first, *(ClassifierFeatures(weights(first.name, seed)) for seed in SEEDS[1:])]


def over_judges(scores: Sequence[Score]) -> Score:
    """The first judge's score, with what all judges say of the same images against the same reference.

    A distance depends on the classifier whose features it compares: three that differ in their seed alone differ in it
    by 3 to 30 % (docs/results.md), and a smaller difference between two models is none. So beside every distance d
    stand d_judges, the mean over the judges, d_judges_std, their standard deviation (of the sample), and d/judge_1,
    d/judge_2, the other judges' own values. A single score is returned as it is.

    Args:
        scores: one of each judge, at least one.
    """
    first, *others = scores
    if not others:
        return first
    distances = dict(first.distances)
    for name in first.distances:
        values = [score.distances[name] for score in scores]
        distances[f"{name}_judges"] = statistics.fmean(values)
        distances[f"{name}_judges_std"] = statistics.stdev(values)
        distances |= {f"{name}/judge_{i}": value for i, value in enumerate(values) if i}
    hashes = ",".join(score.protocol.features_sha256 for score in others)
    return replace(first, distances=distances, protocol=replace(first.protocol, judges_sha256=hashes))
