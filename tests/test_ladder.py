"""The ladder of a diffusion-GAN: its rungs, what is drawn from it, and the levels that are judged."""

import math

import pytest
import torch

from diffusion.grids import CosineGrid, GivenLevels, KarrasGrid, LinearBetaGrid, VPGrid
from diffusion.ladder import AnyLevelBelow, IndependentLevel, Ladder, PreviousLevel
from diffusion.levels import LogNormal, UniformRho

LOW, HIGH = 0.002, 80.0
GIVEN = GivenLevels([[80.0, 5.0, 1.0, 0.2, 0.002]])
GRIDS = [CosineGrid(), VPGrid(), LinearBetaGrid(), KarrasGrid(), GIVEN]


def uniforms(n):
    """n equally spaced numbers in (0, 1)."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def alpha_bar(sigma):
    return 1 / (1 + sigma**2)


@pytest.mark.parametrize(
    ("grid", "ends", "expected"),
    [
        (VPGrid(), (0.0105, 152.6), [0.5217, 0.0787, 0.00343, 4.3e-5]),
        (CosineGrid(), (1e-4, 2e4), [0.8469, 0.4938, 0.1443, 0.0]),
        (LinearBetaGrid(), (1e-6, 157.4), [0.5241, 0.0786, 0.00335, 4.04e-5]),
    ],
    ids=["vp", "cosine", "linear"],
)
def test_four_rungs(grid, ends, expected):
    levels = Ladder(grid).levels(*ends)
    assert alpha_bar(levels)[1:].tolist() == pytest.approx(expected, rel=5e-3, abs=1e-8)
    assert (levels[0].item(), levels[-1].item()) == ends


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_levels_are_the_grids_from_the_lowest_up(grid):
    ladder = Ladder(grid)
    levels = ladder.levels(LOW, HIGH)
    assert levels.dtype == torch.float64 and levels.tolist() == grid.levels(5, LOW, HIGH)[::-1]
    assert (levels.diff() > 0).all() and ladder.levels(LOW, HIGH) is levels


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_noise_adds_up_from_rung_to_rung(grid):
    """(1 - beta_t) abar_s = abar_t with beta = (t^2 - s^2)/(1 + t^2)."""
    s, t = (levels := Ladder(grid).levels(LOW, HIGH))[:-1], levels[1:]
    beta = (t**2 - s**2) / (1 + t**2)
    torch.testing.assert_close((1 - beta) * alpha_bar(s), alpha_bar(t), rtol=1e-10, atol=0)


def test_the_linear_grid_is_ddpms_chain():
    """At whole indices its levels are those of the product of 1 - beta; the data are at -1."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    sigma = (1 / (1 - betas).cumprod(0) - 1).sqrt()
    grid = LinearBetaGrid()
    torch.testing.assert_close(grid(sigma), torch.arange(1000, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    assert grid(torch.zeros(1)).tolist() == [-1] and sigma[-1].item() == pytest.approx(157.4, abs=0.01)
    levels = Ladder(grid).levels(1e-7, sigma[-1].item())
    torch.testing.assert_close(levels[1:], sigma[[249, 499, 749, 999]], rtol=1e-9, atol=0)


@pytest.mark.parametrize("ends", [(0.002, 80.0), (0.07, 15.0), (1e-3, 157.4)])
def test_the_linear_grid_is_equally_spaced_in_the_index(ends):
    grid = LinearBetaGrid()
    levels = grid.levels(9, *ends)
    gaps = grid(torch.tensor(levels, dtype=torch.float64)).diff()
    torch.testing.assert_close(gaps, gaps.mean().expand(8), rtol=1e-7, atol=0)
    assert len(levels) == 9 and (levels[-1], levels[0]) == ends


def test_a_short_chain():
    """Two steps of beta = 0.5 each: abar 1/2, 1/4."""
    grid = LinearBetaGrid(2, 0.5, 0.5)
    torch.testing.assert_close(grid(torch.tensor([1.0, math.sqrt(3)])), torch.tensor([0.0, 1.0]))
    assert grid.levels(3, 1e-6, math.sqrt(3))[1] == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_every_rung_is_drawn_alike(steps):
    ladder = Ladder(steps=steps)
    levels = ladder.levels(LOW, HIGH)
    drawn = ladder.draw(uniforms(30 * steps), LOW, HIGH)
    assert drawn.place.bincount().tolist() == [0, *[30] * steps]
    assert torch.equal(drawn.t, levels[drawn.place]) and torch.equal(drawn.below, levels[drawn.place - 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_of_the_uniform_numbers(dtype):
    u = torch.tensor([0.0, 1 - torch.finfo(dtype).eps / 2], dtype=dtype)
    for steps, substeps in [(1, 1), (3, 1), (4, 250), (7, 11)]:
        assert Ladder(steps=steps, substeps=substeps).draw(u, LOW, HIGH).place.tolist() == [1, steps * substeps]


def test_substeps_are_the_released_codes_indices():
    """t any index of 1,000 and `below` 250 lower; where theirs stops at index 0, ours has the lowest level."""
    grid = LinearBetaGrid()
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    sigma = (1 / (1 - betas).cumprod(0) - 1).sqrt()
    drawn = Ladder(grid, steps=4, substeps=250).draw(uniforms(1000), 1e-7, sigma[-1].item())
    index = torch.arange(1000)
    torch.testing.assert_close(drawn.t, sigma, rtol=1e-7, atol=0)
    torch.testing.assert_close(drawn.below[250:], sigma[(index - 250).clamp(min=0)][250:], rtol=1e-7, atol=0)
    assert drawn.below[:250].unique().tolist() == [1e-7] and sigma[0] < 0.0101


@pytest.mark.parametrize(
    ("ladder", "n", "places"),
    [
        (Ladder(), 1, [4]),
        (Ladder(), 2, [4, 2]),
        (Ladder(), 3, [4, 3, 1]),
        (Ladder(), 4, [4, 3, 2, 1]),
        (Ladder(steps=3), 2, [3, 2]),
        (Ladder(steps=2, substeps=3), 4, [6, 5, 3, 2]),
        (Ladder(steps=4, substeps=250), 4, [1000, 750, 500, 250]),
    ],
    ids=repr,
)
def test_schedule(ladder, n, places):
    levels = ladder.levels(LOW, HIGH)
    assert ladder.schedule(n, LOW, HIGH) == tuple(levels[places].tolist())


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_schedules_start_at_the_top_and_end_above_the_data(steps):
    schedules = Ladder(steps=steps).schedules(LOW, HIGH)
    assert [len(s) for s in schedules] == list(range(1, steps + 1))
    for sigmas in schedules:
        assert sigmas[0] == HIGH and min(sigmas) > LOW and list(sigmas) == sorted(set(sigmas), reverse=True)


@pytest.mark.parametrize("ladder", [Ladder(), Ladder(steps=3, substeps=4), Ladder(GIVEN)], ids=repr)
def test_the_judged_level_is_below(ladder):
    levels = ladder.levels(LOW, HIGH)
    u, v = (w.flatten() for w in torch.meshgrid(uniforms(48), uniforms(48), indexing="ij"))
    drawn = ladder.draw(u, LOW, HIGH)
    previous, below = PreviousLevel()(v, drawn, levels), AnyLevelBelow()(v, drawn, levels)
    assert torch.equal(previous, drawn.below) and (previous < drawn.t).all() and (below < drawn.t).all()


def test_any_level_below_is_uniform():
    ladder = Ladder()
    levels, v = ladder.levels(LOW, HIGH), uniforms(60)
    for place in range(1, 5):
        drawn = ladder.draw(torch.full_like(v, (place - 0.5) / 4), LOW, HIGH)
        judged = AnyLevelBelow()(v, drawn, levels)
        values, counts = judged.unique(return_counts=True)
        assert values.tolist() == levels[:place].tolist() and counts.tolist() == [60 // place] * place


@pytest.mark.parametrize("law", [LogNormal(-1.0, 1.0), UniformRho()], ids=repr)
def test_an_independent_level_follows_its_law(law):
    ladder, v = Ladder(), uniforms(100)
    levels = ladder.levels(LOW, HIGH)
    judged = [IndependentLevel(law)(v, ladder.draw(torch.full_like(v, u), LOW, HIGH), levels) for u in (0.1, 0.9)]
    assert torch.equal(*judged) and torch.equal(judged[0], law.continuous(v, LOW, HIGH))
    assert (judged[0] >= LOW).all() and (judged[0] <= HIGH).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ladder(steps=0), "steps=0"),
        (lambda: Ladder(substeps=0), "substeps=0"),
        (lambda: Ladder().schedule(0, LOW, HIGH), "1 to 4 evaluations"),
        (lambda: Ladder().schedule(5, LOW, HIGH), "steps=5: a ladder of 4 levels"),
        (lambda: Ladder().levels(1.0, 0.5), "sigma_min=1.0"),
        (
            lambda: Ladder(GIVEN, steps=3).levels(LOW, HIGH),
            r"4 noise levels are asked for, and given are lists of \[5\]",
        ),
        (lambda: LinearBetaGrid(n=0), "n=0"),
        (lambda: LinearBetaGrid(beta_start=0.0), "beta_start=0.0"),
        (lambda: LinearBetaGrid(beta_start=0.5, beta_end=0.1), "beta_end=0.1"),
        (lambda: LinearBetaGrid(beta_end=1.0), "beta_end=1.0"),
        (lambda: LinearBetaGrid().levels(5, 0.002, 200.0), "this chain ends at 157.4"),
        (lambda: LinearBetaGrid().levels(0, 0.002, 80.0), "n=0"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
