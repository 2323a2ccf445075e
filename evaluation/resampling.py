"""Distances between two sets of points with their uncertainty, by the bootstrap."""

from dataclasses import dataclass

import torch
from torch import Tensor

from evaluation.distances import Kernel, sliced_wasserstein, squared_mmd


@dataclass(frozen=True)
class Interval:
    """A value and the limits of what holds the mean over sets of this size with a probability of 95 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SetDistance:
    """Of two sets of the same number of points."""

    name: str
    against: str
    points: int
    sliced_wasserstein: Interval
    """Root mean square over directions, in data units; above 0 for two sets of one law, the less the more points."""
    squared_mmd: Interval
    """Unbiased: around 0, of either sign, for two sets of one law."""


def bootstrap_counts(n: int, resamples: int, generator: torch.Generator) -> Tensor:
    """How often each of n points is drawn by n draws with replacement, (resamples, n) float64."""
    drawn = torch.randint(n, (resamples, n), generator=generator)
    return torch.zeros(resamples, n, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(drawn.shape).double())


def interval(value: float, resampled: Tensor) -> Interval:
    """The 2.5 % and 97.5 % quantiles of resampled values (R,), moved so that their mean is the value itself.

    A resample is one more sampling: its squared distance is larger, on average, by what the first sampling had added
    already, and without the move the value would lie below its own interval.
    """
    centred = resampled - resampled.mean() + value
    low, high = centred.quantile(torch.tensor([0.025, 0.975], dtype=centred.dtype)).tolist()
    return Interval(value, low, high)


def set_distance(
    name: str,
    against: str,
    a: Tensor,
    b: Tensor,
    directions: Tensor,
    kernel: Kernel,
    *,
    resamples: int = 200,
    generator: torch.Generator,
) -> SetDistance:
    """Both distances of a from b, and how certain they are by resampling both sets.

    Args:
        name, against: what a and b are.
        a, b: (N, ...), N >= 2.
        directions: unit vectors (P, d) for the sliced Wasserstein distance.
        kernel: of the maximum mean discrepancy.
        resamples: >= 20.
        generator: of the resamples.
    """
    if resamples < 20:
        raise ValueError(f"resamples={resamples}: at least 20 are needed for the limits of an interval")
    a, b = a.double().flatten(1), b.double().flatten(1)
    counts = bootstrap_counts(len(a), resamples, generator), bootstrap_counts(len(b), resamples, generator)
    wasserstein = sliced_wasserstein(a, b, directions)
    squares = torch.tensor(
        [
            sliced_wasserstein(a.repeat_interleave(m.long(), 0), b.repeat_interleave(n.long(), 0), directions) ** 2
            for m, n in zip(*counts, strict=True)
        ],
        dtype=torch.float64,
    )
    square = interval(wasserstein**2, squares)
    low, high = (max(limit, 0.0) ** 0.5 for limit in (square.low, square.high))
    mmd = interval(float(squared_mmd(a, b, kernel)), squared_mmd(a, b, kernel, counts))
    return SetDistance(name, against, len(a), Interval(wasserstein, low, high), mmd)
