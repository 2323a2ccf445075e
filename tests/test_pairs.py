"""The laws of the levels that a training step compares."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from diffusion.curricula import ConstantSteps, DoublingSteps, ECTGap, SquareRootSteps
from diffusion.levels import LogNormal, Mixture, UniformRho
from diffusion.noise import karras_grid
from diffusion.pairs import ContinuousPairs, GridPairs

LOW, HIGH = 0.002, 80.0
LAWS = {
    "iCT": GridPairs(DoublingSteps()),
    "CT": GridPairs(SquareRootSteps(), UniformRho()),
    "BCM's code": GridPairs(DoublingSteps(), reach_top=False),
    "other targets": GridPairs(ConstantSteps(7), target_levels=Mixture(UniformRho(), LogNormal(3.0, 1.0))),
    "linear grid": GridPairs(ConstantSteps(40), UniformRho(1.0), rho=1.0),
    "one interval": GridPairs(ConstantSteps(1), reach_top=False),
    "ECT": ContinuousPairs(ECTGap()),
    "ECT, one stage": ContinuousPairs(ECTGap(q=256, stages=1), target_levels=UniformRho()),
}


def uniform(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def even(n: int) -> torch.Tensor:
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@settings(deadline=None, max_examples=40)
@given(progress=st.floats(0, 1.05), seed=st.integers(0, 1000), n=st.sampled_from([1, 300]))
def test_ranges(law, progress, seed, n):
    """sigma_max >= t > s >= sigma_min and u != t within the range, in float32 too, at every progress."""
    t, s = law.pairs(uniform(n, seed), progress, LOW, HIGH)
    u = law.targets(uniform(n, seed + 1), t, progress, LOW, HIGH)
    assert t.shape == s.shape == u.shape == (n,)
    for a, b, c in ((t, s, u), (t.float(), s.float(), u.float())):
        assert (a > b).all() and (c != a).all()
    assert t.max() <= HIGH and s.min() >= LOW and u.min() >= LOW and u.max() <= HIGH


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("end", [0.0, 1 - 2**-53])
def test_ranges_at_the_ends_of_the_uniform_numbers(law, end):
    v = torch.full((2,), end, dtype=torch.float64)
    t, s = law.pairs(v, 0.5, LOW, HIGH)
    u = law.targets(v, t, 0.5, LOW, HIGH)
    assert (t > s).all() and (u != t).all()
    assert t.max() <= HIGH and s.min() >= LOW and u.min() >= LOW and u.max() <= HIGH


@pytest.mark.parametrize("reach_top", [True, False])
@pytest.mark.parametrize("levels", [LogNormal(), UniformRho(3.0)])
def test_grid_pairs_are_neighbours_with_the_laws_probabilities(levels, reach_top):
    grid, weights = karras_grid(6), levels.weights(karras_grid(6))
    if not reach_top:
        weights = torch.cat([weights[:-1], torch.zeros(1)]) / weights[:-1].sum()
    t, s = GridPairs(ConstantSteps(6), levels, reach_top=reach_top).pairs(even(100_000), 0.0, LOW, HIGH)
    n = torch.searchsorted(grid, s)
    assert torch.equal(grid[n], s) and torch.equal(grid[n + 1], t)
    torch.testing.assert_close(torch.bincount(n, minlength=6) / 100_000, weights.float(), atol=2e-5, rtol=0)


@pytest.mark.parametrize("reach_top", [True, False])
@pytest.mark.parametrize("n", [0, 3, 5])
def test_grid_targets_follow_the_intervals_but_for_t(n, reach_top):
    """u = t_m with the probability of the interval above t_m; reaching the top, the last one is shared with t_N."""
    grid, levels = karras_grid(6), UniformRho(3.0)
    w = levels.weights(grid).tolist()
    points = [*w[:-1], w[-1] / 2, w[-1] / 2] if reach_top else [*w, 0.0]
    points[n + 1] = 0.0
    law = GridPairs(ConstantSteps(6), LogNormal(), target_levels=levels, reach_top=reach_top)
    u = law.targets(even(100_000), grid[n + 1].repeat(100_000), 0.0, LOW, HIGH)
    m = torch.searchsorted(grid, u)
    assert torch.equal(grid[m], u)
    expected = torch.tensor(points) / sum(points)
    torch.testing.assert_close(torch.bincount(m, minlength=7) / 100_000, expected, atol=2e-5, rtol=0)


def test_targets_default_to_the_law_of_the_pairs():
    t = karras_grid(6)[3].repeat(200)
    u = GridPairs(ConstantSteps(6), UniformRho()).targets(even(200), t, 0.0, LOW, HIGH)
    same = GridPairs(ConstantSteps(6), target_levels=UniformRho()).targets(even(200), t, 0.0, LOW, HIGH)
    assert torch.equal(u, same)
    assert not torch.equal(u, GridPairs(ConstantSteps(6)).targets(even(200), t, 0.0, LOW, HIGH))


def test_grid_pairs_follow_the_curriculum():
    law = GridPairs(DoublingSteps(2, 8), UniformRho())
    for progress, n in ((0.0, 2), (0.34, 4), (0.7, 8), (1.0, 8)):
        t, s = law.pairs(even(800), progress, LOW, HIGH)
        assert torch.equal(torch.cat([s, t]).unique(), karras_grid(n))


def test_continuous_pairs_follow_their_law():
    law, truth = ContinuousPairs(ECTGap()), stats.norm(-1.1, 2.0)
    t, s = law.pairs(uniform(4000), 0.5, LOW, HIGH)
    ends = truth.cdf(torch.tensor([1.001 * LOW, HIGH]).log().numpy())
    pvalue = stats.kstest(t.log().numpy(), lambda y: (truth.cdf(y) - ends[0]) / (ends[1] - ends[0])).pvalue
    assert pvalue > 0.01
    torch.testing.assert_close(s, ECTGap()(t, 0.5).clamp(min=LOW))


@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
def test_continuous_targets_stay_a_gap_away(progress):
    """So lambda' = 1/|t - u| never exceeds lambda = 1/(t - s); farther away, u follows its law."""
    law = ContinuousPairs(ECTGap())
    v, w = uniform(20_000, 0), uniform(20_000, 1)
    t, s = law.pairs(v, progress, LOW, HIGH)
    u, free = law.targets(w, t, progress, LOW, HIGH), LogNormal().continuous(w, LOW, HIGH)
    gap = t - s
    assert ((u - t).abs() >= gap * (1 - 1e-9)).all()
    far = (free - t).abs() >= gap
    assert torch.equal(u[far], free[far])
    near_above = ~far & (free > t) & (2 * t - s <= HIGH)
    assert (u[near_above] > t[near_above]).all() and near_above.any()  # the direction is kept
    assert (u < t).any() and far.any()


@pytest.mark.parametrize("law", [LAWS["iCT"], LAWS["ECT"]], ids=["grid", "continuous"])
def test_levels_made_in_inference_mode_serve_training(law):
    """The grid is kept between steps, and validation, under inference_mode, may be what makes it first."""
    with torch.inference_mode():
        law.pairs(even(4), 0.987, LOW, HIGH)
    t, s = law.pairs(even(4), 0.987, LOW, HIGH)
    weight = torch.ones(4, dtype=torch.float64, requires_grad=True)
    (weight * (t - s) * law.targets(even(4), t, 0.987, LOW, HIGH)).sum().backward()
    assert weight.grad.isfinite().all()
