"""The levels that a teacher's solver visits."""

import pytest
import torch

from diffusion.curricula import ConstantSteps, DoublingSteps
from diffusion.levels import LogNormal
from diffusion.noise import karras_grid
from diffusion.pairs import GridPairs
from diffusion.paths import GridPaths, PairPaths

RANGE = (0.002, 80.0)


def uniform(n):
    """n numbers spread evenly over [0, 1)."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def test_cds_law_is_every_interval_alike():
    """openai/consistency_models: an index of N - 1 intervals at random, and its neighbour below."""
    grid = karras_grid(17)
    t, s = GridPaths(ConstantSteps(17)).path(uniform(17), 0.3, 0.0, *RANGE)
    assert torch.equal(t, grid[1:]) and torch.equal(s, grid[:-1])


def test_jumps_are_drawn_in_proportion_to_their_length():
    """sony/ctm, heun_step_strategy "weighted": P(k) = k / (1 + ... + 17)."""
    law = GridPaths(ConstantSteps(17), max_jump=17)
    lengths = torch.tensor([len(law.path(uniform(1), w, 0.0, *RANGE)) - 1 for w in uniform(153 * 4).tolist()])
    assert torch.equal(torch.bincount(lengths)[1:], 4 * torch.arange(1, 18))


@pytest.mark.parametrize("k", [1, 4, 17])
def test_a_path_visits_neighbouring_points_of_the_grid(k):
    grid = karras_grid(17)
    path = GridPaths(ConstantSteps(17), max_jump=k, power=100.0).path(uniform(18 - k), 0.5, 0.0, *RANGE)
    assert path.shape == (k + 1, 18 - k)
    for i in range(18 - k):  # every start that leaves room for k intervals, once
        assert torch.equal(path[:, i], grid[i : i + k + 1].flip(0))


def test_the_grid_follows_the_progress_and_bounds_the_jump():
    law = GridPaths(DoublingSteps(2, 8), max_jump=4, power=100.0)
    assert [len(law.path(uniform(3), 0.5, p, *RANGE)) - 1 for p in (0.0, 0.5, 1.0)] == [2, 4, 4]
    assert len(law.grid(1.0, *RANGE)) == 9


def test_any_law_of_pairs_is_a_path_of_one_step():
    pairs = GridPairs(ConstantSteps(20), LogNormal())
    path = PairPaths(pairs).path(uniform(5), 0.9, 0.5, *RANGE)
    assert torch.equal(path, torch.stack(pairs.pairs(uniform(5), 0.5, *RANGE)))


def test_a_jump_over_nothing_is_refused():
    with pytest.raises(ValueError, match="max_jump=0: a path has at least one interval"):
        GridPaths(ConstantSteps(4), max_jump=0)
