"""Distances between two sets of features, and scores of one set: plain functions of tensors.

Inception scores are made as torch-fidelity makes them, by its own functions wherever those are exact enough. Its
Frechet statistics are means of float32 features in float32 (relative error 4e-4 for features far from zero), so
they are replaced by `moments` here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

Kernel = Callable[[Tensor, Tensor], Tensor]
"""Similarity of points (N, d) and (M, d), (N, M)."""


class Moments(NamedTuple):
    """Mean (d,) and unbiased covariance (d, d), float64."""

    mean: Tensor
    covariance: Tensor


def _check(features: Tensor, at_least: int = 2) -> None:
    if features.ndim != 2:
        raise ValueError(f"features of shape {tuple(features.shape)}: (N, d) is needed")
    if len(features) < at_least:
        raise ValueError(f"{len(features)} images: at least {at_least} are needed")


def moments(features: Tensor, chunk: int = 10_000) -> Moments:
    """Mean and covariance of features (N, d), accumulated in float64 in two passes.

    mu = 1/N sum_i f_i,   C = 1/(N - 1) sum_i (f_i - mu)(f_i - mu)^T

    Args:
        features: (N, d), N >= 2.
        chunk: rows that are held in float64 at a time.
    """
    _check(features)
    n, d = features.shape
    mean = torch.zeros(d, dtype=torch.float64, device=features.device)
    for rows in features.split(chunk):
        mean += rows.double().sum(0)
    mean /= n
    covariance = torch.zeros(d, d, dtype=torch.float64, device=features.device)
    for rows in features.split(chunk):
        centred = rows.double() - mean
        covariance += centred.T @ centred
    return Moments(mean, covariance / (n - 1))


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared Frechet distance of two Gaussians.

    |mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), the trace of the root being the sum of the square roots of
    the eigenvalues of C_a C_b (Heusel et al. 2017, arXiv 1706.08500, eq. 6).

    Returns:
        The distance; for equal or rank-deficient sets rounding may leave a tiny negative number, returned as it is.
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {len(a.mean)} and of {len(b.mean)} dimensions cannot be compared")
    first, second = ({"mu": m.mean.cpu().numpy(), "sigma": m.covariance.cpu().numpy()} for m in (a, b))
    return float(fid_statistics_to_metric(first, second, verbose=False)[KEY_METRIC_FID])


def inception_score(logits: Tensor, splits: int = 10) -> float:
    """exp E KL(p(y|x) || p(y)), the mean over `splits` parts (Salimans et al. 2016, arXiv 1606.03498, sec. 4).

    torch-fidelity's: shuffled by RandomState(2020), then cut into equal parts; with splits=1 the order is of no
    account.

    Args:
        logits: (N, K), N >= splits.
        splits: number of parts, >= 1.
    """
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

    if splits < 1:
        raise ValueError(f"splits={splits}: at least one part is needed")
    _check(logits, at_least=splits)
    return float(isc_features_to_metric(logits.cpu(), splits=splits, shuffle=True, rng_seed=2020)[KEY_METRIC_ISC_MEAN])


def kernel_inception_distance(a: Tensor, b: Tensor, subsets: int = 100, subset_size: int = 1000) -> float:
    """Unbiased squared MMD with the kernel (x.y/d + 1)^3, the mean over random subsets (arXiv 1801.01401, sec. 4).

    torch-fidelity's: `subsets` pairs of subsets drawn by RandomState(2020) without replacement; here in float64.

    Args:
        a, b: (N, d) and (M, d), N, M >= subset_size.
        subsets, subset_size: the literature's 100 of 1000.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    if subset_size < 2:
        raise ValueError(f"subset_size={subset_size}: at least 2 images are needed")
    _check(a, subset_size)
    _check(b, subset_size)
    result = kid_features_to_metric(
        a.double(), b.double(), kid_subsets=subsets, kid_subset_size=subset_size, rng_seed=2020, verbose=False
    )
    return float(result[KEY_METRIC_KID_MEAN])


def squared_mmd(
    a: Tensor, b: Tensor, kernel: Kernel, counts: tuple[Tensor, Tensor] | None = None, chunk: int = 1000
) -> Tensor:
    """Unbiased squared maximum mean discrepancy, of the sets or of resamples of them.

    1/(N(N-1)) sum_{i!=j} k(a_i, a_j) + 1/(M(M-1)) sum_{i!=j} k(b_i, b_j) - 2/(NM) sum_{ij} k(a_i, b_j)
    (Gretton et al. 2012, JMLR 13, eq. 3). Negative values are right: the expectation is zero for equal laws.

    Args:
        a, b: (N, d) and (M, d), N, M >= 2; computed in float64.
        kernel: k, points (N, d) and (M, d) -> (N, M).
        counts: how often each resample has each point of a and of b, (R, N) and (R, M), at least 2 points in each; None
            for the sets themselves, R = 1. A point that is there twice is two points.
        chunk: rows of a kernel matrix that are held at a time.

    Returns:
        (R,) float64.
    """
    _check(a)
    _check(b)
    a, b = a.double(), b.double()
    if counts is None:
        counts = a.new_ones(1, len(a)), b.new_ones(1, len(b))
    times_a, times_b = (times.to(a) for times in counts)

    def total(x: Tensor, y: Tensor, times_x: Tensor, times_y: Tensor) -> Tensor:
        parts = zip(x.split(chunk), times_x.split(chunk, dim=1), strict=True)
        return sum((((times @ kernel(rows, y)) * times_y).sum(1) for rows, times in parts), a.new_zeros(len(times_x)))

    def within(x: Tensor, times: Tensor) -> Tensor:
        n = times.sum(1)
        alone = torch.cat([kernel(rows, rows).diagonal() for rows in x.split(chunk)])
        return (total(x, x, times, times) - times @ alone) / (n * (n - 1))

    across = total(a, b, times_a, times_b) / (times_a.sum(1) * times_b.sum(1))
    return within(a, times_a) + within(b, times_b) - 2 * across


@dataclass(frozen=True)
class GaussianKernels:
    """k(x, y) = mean_s exp(-|x - y|^2/(2 s^2)): sees the coarse and the fine, by the larger s and the smaller.

    Args:
        widths: s, each > 0, in data units.
    """

    widths: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.widths) == 0 or not min(self.widths) > 0:
            raise ValueError(f"widths={self.widths}: at least one, each > 0, is needed")

    @classmethod
    def around(cls, points: Tensor) -> "GaussianKernels":
        """Of the median distance of the first 2,000 points (N, d), and its half, quarter, eighth and double."""
        _check(points)
        median = float(torch.pdist(points[:2000].double()).median())
        return cls(tuple(median * factor for factor in (1 / 8, 1 / 4, 1 / 2, 1, 2)))

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """(N, d), (M, d) -> (N, M)."""
        square = torch.cdist(x, y).square()
        return torch.stack([(-square / (2 * s * s)).exp() for s in self.widths]).mean(0)


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """`squared_mmd` with the kernel (x.y/d + 1)^3 over the whole sets, no subsets, so no randomness.

    The kernel is that of Binkowski et al. 2018 (arXiv 1801.01401).

    Args:
        a, b: (N, d) and (M, d), N, M >= 2.
    """
    return float(squared_mmd(a, b, lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3))


def precision_recall(
    generated: Tensor, real: Tensor, k: int = 3, device: torch.device | str = "cpu"
) -> tuple[float, float]:
    """Share of generated images in the real manifold, and of real ones in the generated manifold.

    A manifold is the union of the balls around its points, each reaching to the point's k-th nearest neighbour
    (Kynkaanniemi et al. 2019, arXiv 1904.06991, eq. 1 and 2). Both depend on N: compare at equal N only.

    Args:
        generated, real: (N, d) and (M, d), N, M > k.
        k: neighbours, >= 1.
        device: where the distances are computed, in float64.
    """
    from torch_fidelity.metric_prc import calculate_precision_recall_part

    if k < 1:
        raise ValueError(f"k={k}: at least one neighbour is needed")
    _check(generated, k + 1)
    _check(real, k + 1)
    first, second = generated.to(device, torch.float64), real.to(device, torch.float64)
    precision, recall = calculate_precision_recall_part(first, second, neighborhood=k, batch_size=1000)
    return float(precision), float(recall)


def half_circle(n: int) -> Tensor:
    """n evenly spaced unit vectors of a half circle, (n, 2) float64: a direction and its opposite project alike."""
    if n < 1:
        raise ValueError(f"n={n}: at least one direction is needed")
    angle = torch.pi * torch.arange(n, dtype=torch.float64) / n
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def directions_in(d: int, n: int, generator: torch.Generator) -> Tensor:
    """n unit vectors of d dimensions, (n, d) float64: the half circle's in the plane, random ones elsewhere."""
    if d == 2:
        return half_circle(n)
    drawn = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return drawn / drawn.norm(dim=1, keepdim=True)


def sliced_wasserstein(a: Tensor, b: Tensor, directions: Tensor) -> float:
    """Root mean square over directions u of the 2-Wasserstein distance of the projected sets.

    SW^2 = mean_u 1/N sum_i (sort(a u)_i - sort(b u)_i)^2 (Bonneel et al. 2015, J. Math. Imaging Vis. 51).

    In the plane `half_circle(n)` replaces random directions: the mean over it converges much faster in n. Two samples
    of one law are not at distance zero: give the distance of such a pair, at the same N, beside it.

    Args:
        a, b: two sets of N points each, (N, d).
        directions: unit vectors (P, d).
    """
    _check(a, at_least=1)
    if a.shape != b.shape:
        raise ValueError(f"sets of {tuple(a.shape)} and {tuple(b.shape)}: both must have the same number of points")
    first, second = ((points.double() @ directions.to(points.device).double().T).sort(0).values for points in (a, b))
    return float((first - second).square().mean().sqrt())
