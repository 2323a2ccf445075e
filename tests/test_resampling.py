"""Distances of sets with their intervals: the kernel distance of resamples, and how often intervals hold the mean."""

import math

import pytest
import torch

from evaluation.distances import GaussianKernels, directions_in, half_circle, sliced_wasserstein, squared_mmd
from evaluation.resampling import bootstrap_counts, set_distance

S = 0.5


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shift", [0.0, 0.6])
def test_intervals_hold_the_mean_over_sets_of_that_size(shift):
    """In at least 17 of 20 pairs of sets; the mean is that of 200 pairs."""
    kernel, directions, draws = GaussianKernels((0.2, 1.0)), half_circle(8), generator(5)
    pairs = [
        (S * torch.randn(80, 2, generator=draws) + shift, S * torch.randn(80, 2, generator=draws)) for _ in range(200)
    ]
    sw = float(torch.tensor([sliced_wasserstein(*pair, directions) ** 2 for pair in pairs]).mean()) ** 0.5
    mmd = float(torch.cat([squared_mmd(*pair, kernel) for pair in pairs]).mean())
    rows = [set_distance("", "", *pair, directions, kernel, resamples=60, generator=draws) for pair in pairs[:20]]
    assert sum(row.sliced_wasserstein.low <= sw <= row.sliced_wasserstein.high for row in rows) >= 17
    assert sum(row.squared_mmd.low <= mmd <= row.squared_mmd.high for row in rows) >= 17
    if shift:  # and are not so wide that they hold anything
        assert all(row.sliced_wasserstein.low > sw / 2 and row.squared_mmd.low > 0 for row in rows)


def test_mmd_of_resamples_is_that_of_the_resampled_sets():
    """Each resample by weights against the set written out, and the whole against the double sum of the kernel."""
    a, b = torch.randn(7, 3, generator=generator(1)).double(), torch.randn(5, 3, generator=generator(2)).double()
    kernel, draws = GaussianKernels((0.5, 2.0)), generator(3)
    counts = bootstrap_counts(7, 4, draws), bootstrap_counts(5, 4, draws)
    assert counts[0].sum(1).tolist() == [7] * 4 and len({tuple(row) for row in counts[0].tolist()}) == 4
    expected = [
        float(squared_mmd(a.repeat_interleave(m.long(), 0), b.repeat_interleave(n.long(), 0), kernel))
        for m, n in zip(*counts, strict=True)
    ]
    assert squared_mmd(a, b, kernel, counts, chunk=2).tolist() == pytest.approx(expected, rel=1e-6, abs=1e-9)

    def k(x, y):
        square = float((x - y).square().sum())
        return (math.exp(-square / 0.5) + math.exp(-square / 8)) / 2

    within = [sum(k(x, y) for x in s for y in s if x is not y) / len(s) / (len(s) - 1) for s in (list(a), list(b))]
    whole = sum(within) - 2 * sum(k(x, y) for x in a for y in b) / 35
    assert float(squared_mmd(a, b, kernel)) == pytest.approx(whole, rel=1e-6)


def test_widths_and_directions():
    square = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])  # distances 1 (four) and sqrt 2 (two)
    assert GaussianKernels.around(square).widths == pytest.approx((1 / 8, 1 / 4, 1 / 2, 1, 2))
    assert torch.equal(directions_in(2, 5, generator()), half_circle(5))
    assert directions_in(7, 5, generator()).norm(dim=1).tolist() == pytest.approx([1] * 5)
