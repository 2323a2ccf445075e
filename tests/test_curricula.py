"""Schedules as functions of a run's progress."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion.curricula import ConstantSteps, CosineDecay, DoublingSteps, ECTGap, SquareRootSteps, TargetRate

INTERVALS = {
    "constant": ConstantSteps(320),
    "CT": SquareRootSteps(),
    "CT ImageNet-64": SquareRootSteps(2, 200),
    "iCT": DoublingSteps(),
    "no power of two": DoublingSteps(10, 300),
    "one stage": DoublingSteps(5, 5),
}
progresses = st.floats(0, 1)


@pytest.mark.parametrize("steps", INTERVALS.values(), ids=INTERVALS)
@given(a=progresses, b=progresses)
def test_intervals_never_decrease(steps, a, b):
    first, last = steps(min(a, b)), steps(max(a, b))
    assert isinstance(first, int) and 1 <= first <= last


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        ("constant", 320, 320),
        ("CT", 1, 150),
        ("CT ImageNet-64", 1, 200),
        ("iCT", 10, 1280),
        ("no power of two", 10, 300),
        ("one stage", 5, 5),
    ],
)
def test_intervals_at_the_ends(name, start, end):
    steps = INTERVALS[name]
    assert (steps(0.0), steps(1.0), steps(1.01)) == (start, end, end)  # the last batch may overshoot the budget


@pytest.mark.parametrize("budget", [800, 400_000, 51_200_000])
def test_ict_doubles_in_eight_equal_stages_of_any_budget(budget):
    steps = DoublingSteps()
    for stage in range(8):
        assert steps(stage * budget // 8 / budget) == 10 * 2**stage
        assert steps(((stage + 1) * budget // 8 - 1) / budget) == 10 * 2**stage


@pytest.mark.parametrize("budget", [1_000, 800_000])
def test_square_root_curriculum_squares_to_a_line(budget):
    """(N + 1)^2 rises linearly from s0^2 to (s1 + 1)^2, but for rounding N up."""
    for k in range(0, budget, budget // 50):
        n = SquareRootSteps(2, 150)(k / budget)
        line = 4 + k / budget * (151**2 - 4)
        assert n**2 < line + 1e-6 <= (n + 1) ** 2 + 1e-5


@given(a=progresses, b=progresses)
def test_target_rate_rises_with_the_intervals(a, b):
    rate = TargetRate(SquareRootSteps(2, 150), 0.9)
    low, high = rate(min(a, b)), rate(max(a, b))
    assert 0 < low <= high < 1
    assert math.isclose(low ** SquareRootSteps(2, 150)(min(a, b)), 0.9**2, rel_tol=1e-9)


@given(t=st.floats(0.0021, 80), a=progresses, b=progresses)
def test_ect_gap_closes_with_progress(t, a, b):
    gap, level = ECTGap(), torch.tensor([t], dtype=torch.float64)
    early, late = gap(level, min(a, b)), gap(level, max(a, b))
    assert 0 <= early <= late < t


@pytest.mark.parametrize(("progress", "power"), [(0.0, 1), (0.13, 2), (0.5, 5), (0.99, 8), (1.0, 8)])
def test_ect_gap_is_its_formula(progress, power):
    for t in (0.01, 0.7, 5.0, 80.0):
        n = 1 + 8 / (1 + math.exp(t))
        r = ECTGap(q=2.0, stages=8)(torch.tensor([t], dtype=torch.float64), progress).item()
        assert math.isclose(r, max(t * (1 - n / 2**power), 0), rel_tol=1e-12)


def test_ect_gap_starts_at_the_data():
    """At stage 0 small levels are compared with the data itself: r = 0."""
    assert ECTGap()(torch.tensor([0.01, 1.0]), 0.0).tolist() == [0, 0]


@given(a=progresses, b=progresses)
def test_learning_rate_rises_then_falls(a, b):
    factor = CosineDecay(warmup=0.1, final=0.05)
    first, last = factor(min(a, b)), factor(max(a, b))
    assert 0 <= first <= 1 and 0 <= last <= 1
    if max(a, b) <= 0.1:
        assert first <= last
    if min(a, b) >= 0.1:
        assert first >= last >= 0.05 - 1e-12


def test_learning_rate_at_its_corners():
    factor = CosineDecay(warmup=0.1, final=0.05)
    values = [factor(p) for p in (0.0, 0.05, 0.1, 0.55, 1.0, 1.2)]
    assert values == pytest.approx([0, 0.5, 1, 0.525, 0.05, 0.05])
    assert CosineDecay()(0.0) == 1 and CosineDecay()(0.5) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("call", "value"),
    [
        (lambda: ConstantSteps(0), "n=0"),
        (lambda: SquareRootSteps(0, 150), "s0=0"),
        (lambda: SquareRootSteps(10, 5), "s1=5"),
        (lambda: DoublingSteps(0, 5), "s0=0"),
        (lambda: DoublingSteps(10, 5), "s1=5"),
        (lambda: TargetRate(SquareRootSteps(), 1.0), "mu0=1.0"),
        (lambda: ECTGap(q=1.0), "q=1.0"),
        (lambda: ECTGap(stages=0), "stages=0"),
        (lambda: ECTGap(k=-1.0), "k=-1.0"),
        (lambda: CosineDecay(warmup=1.0), "warmup=1.0"),
        (lambda: CosineDecay(final=2.0), "final=2.0"),
        (lambda: SquareRootSteps()(-0.1), "progress=-0.1"),
        (lambda: DoublingSteps()(-0.1), "progress=-0.1"),
        (lambda: ECTGap()(torch.ones(1), -0.1), "progress=-0.1"),
        (lambda: CosineDecay()(-0.1), "progress=-0.1"),
    ],
)
def test_bad_arguments_are_named(call, value):
    with pytest.raises(ValueError, match=value):
        call()
