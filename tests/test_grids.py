"""Where a sampler's levels lie."""

import pytest
import torch

from diffusion.grids import CosineGrid, GivenLevels, KarrasGrid, LogGrid, VPGrid
from diffusion.noise import cosine_grid, karras_grid, vp_grid

SCALES = [KarrasGrid(), KarrasGrid(rho=1), LogGrid(), VPGrid(), VPGrid(0.2, 5.0), CosineGrid()]


@pytest.mark.parametrize("scale", SCALES, ids=repr)
@pytest.mark.parametrize("ends", [(0.002, 80.0), (0.07, 15.0)])
def test_levels_are_equally_spaced_in_the_variable(scale, ends):
    levels = scale.levels(9, *ends)
    assert len(levels) == 9 and (levels[-1], levels[0]) == ends
    gaps = scale(torch.tensor(levels, dtype=torch.float64)).diff()
    torch.testing.assert_close(gaps, gaps.mean().expand(8), rtol=1e-7, atol=0)
    assert gaps[0] < 0
    assert scale.levels(2, *ends) == [ends[1], ends[0]] and scale.levels(1, *ends) == [ends[1]]


@pytest.mark.parametrize(
    ("scale", "grid"),
    [(KarrasGrid(rho=3.0), karras_grid(6, rho=3.0)), (VPGrid(), vp_grid(6)), (CosineGrid(), cosine_grid(6))],
    ids=["karras", "vp", "cosine"],
)
def test_levels_are_the_grids_of_the_forward_process(scale, grid):
    levels = scale.levels(7, grid[0].item(), grid[-1].item())
    torch.testing.assert_close(torch.tensor(levels, dtype=torch.float64).flip(0), grid, rtol=1e-9, atol=0)


def test_the_time_of_the_vp_sde_is_exact_at_small_levels():
    """Where ln(1 + sigma^2) = beta_min t, up to t^2: no digits are lost to cancellation."""
    sigma = torch.tensor([1e-6], dtype=torch.float64)
    torch.testing.assert_close(VPGrid()(sigma), sigma**2 / 0.1, rtol=1e-9, atol=0)


def test_given_levels():
    grid = GivenLevels([[80.0, 1.0], [70.0, 5.0, 0.3]])
    assert grid.levels(3, 0.002, 80.0) == [70.0, 5.0, 0.3]
    assert grid.levels(2, 2.0, 80.0) == [80.0, 1.0]  # to start at sigma_max is allowed, to end below sigma_min too
    with pytest.raises(ValueError, match=r"4 noise levels are asked for, and given are lists of \[2, 3\]"):
        grid.levels(4, 0.002, 80.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GivenLevels([[1.0, 2.0]]), "descending"),
        (lambda: GivenLevels([[1.0, 0.0]]), "> 0"),
        (lambda: GivenLevels([[]]), r"sigmas=\[\]"),
        (lambda: GivenLevels([[float("nan")]]), "> 0"),
        (lambda: GivenLevels([[2.0, float("nan"), 1.0]]), "descending"),
        (lambda: GivenLevels([[500.0, 5.0, 1.0]]).levels(3, 0.002, 80.0), "no level may lie above sigma_max=80.0"),
        (lambda: GivenLevels([]), r"schedules=\[\]"),
        (lambda: GivenLevels([[2.0, 1.0], [4.0, 3.0]]), "one list of levels for each number"),
        (lambda: VPGrid(2.0, 1.0), "beta_min=2.0"),
        (lambda: KarrasGrid(rho=0), "rho=0"),
        (lambda: CosineGrid(eps=0.0), "eps=0.0"),
        (lambda: LogGrid().levels(3, 1.0, 0.1), "sigma_min=1.0"),
        (lambda: LogGrid().levels(0, 0.1, 1.0), "n=0"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
