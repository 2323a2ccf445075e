"""What progressive distillation has of its own: its stages, the levels of a step, and the student's target."""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from diffusion.denoisers import Denoise
from diffusion.levels import draw_index
from diffusion.noise import expand, karras_grid_on
from diffusion.solvers import euler_step


def _is_power_of_two(n: int) -> bool:
    return n >= 1 and n & (n - 1) == 0


@dataclass(frozen=True)
class Halving:
    """Stages of N = start_steps, start_steps/2, ..., end_steps sampling steps (Salimans & Ho 2022, arXiv 2202.00512).

    Args:
        start_steps: sampling steps of the first stage's student, a power of two; its teacher takes twice as many.
        end_steps: those of the last stage's student, a power of two.
        last_share: length of the stages of two steps and of one, of which more is asked, in lengths of any other
            stage; 2 in both papers' recipes (openai/consistency_models at e32b69e: 50,000 and 100,000 iterations).
    """

    start_steps: int = 16
    end_steps: int = 1
    last_share: float = 2.0

    def __post_init__(self) -> None:
        if not (_is_power_of_two(self.start_steps) and _is_power_of_two(self.end_steps)):
            raise ValueError(f"start_steps={self.start_steps}, end_steps={self.end_steps}: both are powers of two")
        if self.end_steps > self.start_steps:
            raise ValueError(f"start_steps={self.start_steps}, end_steps={self.end_steps}: the steps are halved")
        if self.last_share <= 0:
            raise ValueError(f"last_share={self.last_share}: a stage has a length > 0")

    @property
    def steps(self) -> tuple[int, ...]:
        """N of every stage, in their order."""
        count = self.start_steps.bit_length() - self.end_steps.bit_length() + 1
        return tuple(self.start_steps >> i for i in range(count))

    @property
    def bounds(self) -> tuple[float, ...]:
        """The progress at which each stage begins, and 1."""
        shares = [self.last_share if n <= 2 else 1.0 for n in self.steps]
        return (0.0, *(end / sum(shares) for end in accumulate(shares)))

    def index(self, progress: float) -> int:
        """The stage, counted from 0, at a progress >= 0; the last one at 1 and beyond."""
        if progress < 0:
            raise ValueError(f"progress={progress}: it starts at 0")
        return min(bisect_right(self.bounds, progress + 1e-9), len(self.steps)) - 1

    def within(self, index: int, progress: float) -> float:
        """How far the stage `index` is done, from 0 to 1."""
        start, end = self.bounds[index : index + 2]
        return min(max((progress - start) / (end - start), 0.0), 1.0)


def halved_intervals(v: Tensor, n: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """The ends and the middle of one of the n intervals of a Karras grid, each interval with equal probability.

    t = t_i, t_{i+1/2}, t_{i+1}: neighbouring levels of the grid of 2n intervals, the first among those of n.

    Args:
        v: uniform numbers (B,) in [0, 1).
        n: intervals, >= 1.
        sigma_min, sigma_max: the grid's ends.
        rho: curvature of the grid.

    Returns:
        Descending levels (3, B) float64.
    """
    grid = karras_grid_on(2 * n, sigma_min, sigma_max, rho, v.device)
    start = 2 * (draw_index(v, torch.ones(n, device=v.device)) + 1)
    return grid[start - torch.arange(3, device=v.device)[:, None]]


@torch.no_grad()
def two_step_target(denoise: Denoise, x: Tensor, path: Tensor, label: Tensor | None = None) -> Tensor:
    """The estimate of x0 with which one DDIM step t -> s lands where two of the teacher do, t -> m -> s; no gradient.

    x~ = x_t - t (x_s - x_t)/(s - t) = D_t + t (s - m)/(m (s - t)) (D_m - D_t),   D_t = D(x_t, t), D_m = D(x_m, m)

    (Salimans & Ho 2022, arXiv 2202.00512, algorithm 2, in the coordinates x = x0 + t z). The second form is
    the first without its cancellation, which at thousands of steps costs float32 three digits.

    Args:
        denoise: the teacher.
        x: points (B, ...) at the levels path[0].
        path: descending levels t, m, s (3, B).
        label: (B,) or None.
    """
    t, m, s = path
    first = denoise(x, t, label)
    second = denoise(euler_step(lambda x, sigma, label=None: first, x, t, m), m, label)
    return first + expand(t * (s - m) / (m * (s - t)), x) * (second - first)
