"""Curricula: pure functions of the progress of a run, from 0 at its start to 1 at its end.

Progress is images seen / images in all, so that every schedule scales with any budget.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def _check_progress(progress: float) -> float:
    if progress < 0:
        raise ValueError(f"progress={progress}: it starts at 0")
    return min(progress, 1.0)


@dataclass(frozen=True)
class ConstantSteps:
    """N = n intervals throughout (CD; BCM's tuning from a consistency model has n = 320)."""

    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n={self.n}: a grid has at least one interval")

    def __call__(self, progress: float) -> int:
        return self.n


@dataclass(frozen=True)
class SquareRootSteps:
    """N(k) = max(ceil(sqrt(k/K ((s1 + 1)^2 - s0^2) + s0^2) - 1), 1) intervals.

    Song et al. 2023 (arXiv 2303.01469, app. C), whose N counts the grid's points and so is one more. s0 = 2, s1 = 150
    for CIFAR-10, s1 = 200 for ImageNet-64.
    """

    s0: int = 2
    s1: int = 150

    def __post_init__(self) -> None:
        if not 1 <= self.s0 <= self.s1:
            raise ValueError(f"s0={self.s0}, s1={self.s1}: 1 <= s0 <= s1 is needed")

    def __call__(self, progress: float) -> int:
        k = _check_progress(progress)
        return max(math.ceil(math.sqrt(k * ((self.s1 + 1) ** 2 - self.s0**2) + self.s0**2) - 1), 1)


@dataclass(frozen=True)
class TargetRate:
    """mu(k) = exp(s0 ln(mu0) / N(k)), the target network's EMA rate in CT (arXiv 2303.01469, app. C).

    Note: both official codes put the number of intervals in the place of N(k), the paper the number of points, one
    more; at the start with s0 = 2, mu0 = 0.9 that is 0.810 against 0.900. This follows the codes.
    """

    steps: SquareRootSteps
    mu0: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.mu0 < 1:
            raise ValueError(f"mu0={self.mu0}: a rate lies in (0, 1)")

    def __call__(self, progress: float) -> float:
        return math.exp(self.steps.s0 * math.log(self.mu0) / self.steps(progress))


@dataclass(frozen=True)
class DoublingSteps:
    """N(k) = min(s0 2^floor(k/K'), s1) intervals, K' = K / (log2 floor(s1/s0) + 1).

    Song & Dhariwal 2023 (iCT, arXiv 2310.14189): s0 = 10, s1 = 1280.

    Note: the paper rounds K' down to whole iterations; as a function of progress there are none to round to.
    """

    s0: int = 10
    s1: int = 1280

    def __post_init__(self) -> None:
        if not 1 <= self.s0 <= self.s1:
            raise ValueError(f"s0={self.s0}, s1={self.s1}: 1 <= s0 <= s1 is needed")

    def __call__(self, progress: float) -> int:
        stages = math.log2(self.s1 // self.s0) + 1
        return min(self.s0 * 2 ** math.floor(_check_progress(progress) * stages + 1e-9), self.s1)


@dataclass(frozen=True)
class ECTGap:
    """ECT's second level r = max(t (1 - n(t)/q^(a+1)), 0), n(t) = 1 + k sigmoid(-b t), stage a = floor(stages k/K).

    Geng et al. 2024 (ECT, arXiv 2406.14548) as in the official code: k = 8, b = 1; q = 2 and 8 stages for CIFAR-10,
    q = 4 for ImageNet-64, q = 256 and one stage for the one-hour run.
    """

    q: float = 2.0
    stages: int = 8
    k: float = 8.0
    b: float = 1.0

    def __post_init__(self) -> None:
        if self.q <= 1 or self.stages < 1 or self.k < 0:
            raise ValueError(f"q={self.q}, stages={self.stages}, k={self.k}: q > 1, stages >= 1, k >= 0 are needed")

    def __call__(self, t: Tensor, progress: float) -> Tensor:
        """Levels t (B,) -> the levels r < t (B,), 0 where the gap reaches the data."""
        stage = min(math.floor(_check_progress(progress) * self.stages + 1e-9), self.stages - 1)
        n = 1 + self.k * torch.sigmoid(-self.b * t)
        return (t * (1 - n / self.q ** (stage + 1))).clamp(min=0)


@dataclass(frozen=True)
class CosineDecay:
    """Factor of the learning rate: a linear rise during `warmup` of the run, then half a cosine down to `final`.

    Loshchilov & Hutter 2017 (arXiv 1608.03983), without restarts.
    """

    warmup: float = 0.0
    final: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1 or not 0 <= self.final <= 1:
            raise ValueError(f"warmup={self.warmup}, final={self.final}: 0 <= warmup < 1, 0 <= final <= 1")

    def __call__(self, progress: float) -> float:
        k = _check_progress(progress)
        if k < self.warmup:
            return k / self.warmup
        fall = (k - self.warmup) / (1 - self.warmup)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * fall)) / 2


@dataclass(frozen=True)
class LinearDecay:
    """Factor of the learning rate: a straight line from 1 down to `final` (arXiv 2202.00512, in every stage)."""

    final: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.final <= 1:
            raise ValueError(f"final={self.final}: a factor of the learning rate lies in [0, 1]")

    def __call__(self, progress: float) -> float:
        return 1 - (1 - self.final) * _check_progress(progress)
