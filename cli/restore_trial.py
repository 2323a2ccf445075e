"""Restoration as it is scored: clean images are damaged, restored and compared with what they were."""

import statistics
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cli.restore_run import Problem, observed
from evaluation.features import FeatureNetwork, Features, extract
from evaluation.restoration import Perceptual

STRIDE = 1_000_000
"""Between the seeds of the noise of an image: its own number, that and a million, ..."""


@dataclass(frozen=True)
class Judge:
    """A feature network and the features of clean training images."""

    network: FeatureNetwork
    reference: Features

    def distance(self, images: Tensor) -> dict[str, float]:
        """The first distance of `scores_against`, by its name, of images (N, C, H, W) uint8."""
        features = extract(self.network, images)
        n, m = self.network.compared(len(features), len(self.reference))
        found = self.network.scores_against(features.first(n), self.reference.subset(m))
        name = next(iter(found))
        return {name: found[name]}


@dataclass(frozen=True)
class Trial:
    """Images (N, C, H, W) uint8 as they were, and what is left of them."""

    truth: Tensor
    problem: Problem

    @classmethod
    def of(cls, operator: Any, images: Tensor, labels: Tensor | None, rows: range, seed: int = 0) -> "Trial":
        """Of those `rows` of clean images (N, C, H, W) uint8, with classes (N,) or None that the model is told.

        The noise of an image has the seed of its row; of every further `seed` others.
        """
        chosen = images[rows.start : rows.stop]
        label = None if labels is None else labels[rows.start : rows.stop]
        seeds = [row + STRIDE * seed for row in rows]
        return cls(chosen, Problem(operator, observed(operator, chosen, seeds), label, seeds))

    def beside(self) -> dict[str, Tensor]:
        """What is to stand beside every result: what was given, returned as it is, and the truth."""
        return {"given": self.problem.given(), "clean": self.truth}

    def scores(self, images: Tensor, judge: Judge, lpips: Perceptual | None = None) -> dict[str, float]:
        """Means over results (N, C, H, W) uint8, by name, as of `Problem.scores`; and the judge's distance of all."""
        found = self.problem.scores(images, self.truth, lpips)
        return {name: statistics.fmean(values) for name, values in found.items()} | judge.distance(images)
