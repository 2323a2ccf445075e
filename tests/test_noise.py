"""The forward process and the grids of levels."""

import math

import pytest
import torch

from diffusion.noise import cosine_grid, expand, karras_grid, perturb, vp_grid


def test_perturb_adds_each_images_own_noise():
    x0, noise = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    sigma = torch.tensor([0.0, 0.5, 80.0], dtype=torch.float64)
    x = perturb(x0, noise, sigma)
    assert x.dtype == torch.float32
    for i, level in enumerate(sigma.tolist()):
        torch.testing.assert_close(x[i], x0[i] + level * noise[i])
    assert expand(sigma, x0).shape == (3, 1, 1, 1)
    assert expand(sigma[:1], torch.zeros(1, 7)).shape == (1, 1)


@pytest.mark.parametrize("n", [1, 2, 18, 1280])
@pytest.mark.parametrize("rho", [1.0, 7.0])
def test_karras_grid(n, rho):
    """Uniform in sigma^(1/rho), from exactly sigma_min to exactly sigma_max."""
    grid = karras_grid(n, 0.002, 80.0, rho)
    assert grid.dtype == torch.float64 and len(grid) == n + 1
    assert grid[0] == 0.002 and grid[-1] == 80.0
    steps = (grid ** (1 / rho)).diff()
    torch.testing.assert_close(steps, torch.full_like(steps, (80 ** (1 / rho) - 0.002 ** (1 / rho)) / n))


def test_vp_grid_is_the_sde_integrated():
    """sigma^2 = (1 - abar)/abar, abar(t) = exp(-integral of beta), beta(t) = 0.1 + 19.9 t, by the trapezium rule."""
    grid = vp_grid(9)
    for i, sigma in enumerate(grid.tolist()):
        t = 1e-3 + i / 9 * (1 - 1e-3)
        beta = 0.1 + 19.9 * torch.linspace(0, t, 101, dtype=torch.float64)
        abar = math.exp(-torch.trapezoid(beta, dx=t / 100).item())
        assert math.isclose(sigma, math.sqrt((1 - abar) / abar), rel_tol=1e-9)


def test_cosine_grid_keeps_the_signal_of_its_paper():
    """1/(1 + sigma^2) = abar(t); at t = 1/2 the plain cosine (eps = 0) has sigma = 1."""
    grid = cosine_grid(4, eps=0.008, t_min=0.1, t_max=0.9)
    for t, sigma in zip((0.1, 0.3, 0.5, 0.7, 0.9), grid.tolist(), strict=True):
        f = [math.cos((v + 0.008) / 1.008 * math.pi / 2) ** 2 for v in (t, 0)]
        assert math.isclose(1 / (1 + sigma**2), f[0] / f[1], rel_tol=1e-9)
    assert math.isclose(cosine_grid(2, eps=0.0, t_min=0.1, t_max=0.9)[1], 1.0, rel_tol=1e-9)


@pytest.mark.parametrize("grid", [karras_grid, vp_grid, cosine_grid])
def test_grids_increase(grid):
    levels = grid(50)
    assert len(levels) == 51 and (levels.diff() > 0).all() and levels.isfinite().all() and levels[0] > 0


@pytest.mark.parametrize(
    ("call", "value"),
    [
        (lambda: karras_grid(0), "n=0"),
        (lambda: karras_grid(5, 0.0, 80.0), "sigma_min=0.0"),
        (lambda: karras_grid(5, 80.0, 0.002), "sigma_max=0.002"),
        (lambda: karras_grid(5, rho=0.0), "rho=0.0"),
        (lambda: vp_grid(-1), "n=-1"),
        (lambda: cosine_grid(0), "n=0"),
        (lambda: cosine_grid(5, t_max=1.0), "t_max=1.0"),
    ],
)
def test_bad_arguments_are_named(call, value):
    with pytest.raises(ValueError, match=value):
        call()
