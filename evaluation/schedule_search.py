"""Search for the noise levels of few-step sampling: which levels, visited in order, minimise a score.

    levels = (sigma_max, s_2, ..., s_n),  sigma_max > s_2 > ... > s_n > sigma_min      n network evaluations

`greedy_search` takes one level of a grid at a time by ternary search, as Song et al. 2023 do (arXiv 2303.01469). It
assumes that between two levels already fixed the score has one minimum (it is unimodal), and that the best n levels
hold the best n - 1. `joint_search` moves all levels at once over continuous ln sigma with Optuna and assumes neither,
but no number of trials is sure to be enough.

Neither knows of models: an objective maps levels to a number, the less the better.
"""

import math
from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

Levels = tuple[float, ...]
"""Descending noise levels in data units, the first fixed."""
Objective = Callable[[Levels], float]
"""The score of sampling through the levels, to be minimised."""

INSTALL = 'pip install -e ".[search]"'


class Evaluations:
    """An objective that is asked once at every point, and what it answered.

    Args:
        objective: levels -> score; it may keep answers of its own across processes.
    """

    def __init__(self, objective: Objective):
        self.objective = objective
        self.scores: dict[Levels, float] = {}
        """In the order in which they were first asked for."""

    def __call__(self, levels: Levels) -> float:
        if levels not in self.scores:
            self.scores[levels] = self.objective(levels)
        return self.scores[levels]

    def best(self, steps: int) -> Levels:
        """The best levels among those asked for that have `steps` evaluations, of equals the first."""
        return min((levels for levels in self.scores if len(levels) == steps), key=self.scores.__getitem__)


class Line(NamedTuple):
    """What was evaluated along a line of indices."""

    best: int
    scores: dict[int, float]
    """By index, ascending."""

    @property
    def bump(self) -> float:
        """By how much the points contradict that the score has one minimum, see `bump`."""
        return bump(self.scores.values())


class Found(NamedTuple):
    """The result of a greedy search."""

    levels: Levels
    bump: float
    """The largest `Line.bump` of the lines that were searched: 0 where nothing contradicts the assumption."""


def bump(scores: Iterable[float]) -> float:
    """The height of the largest hill between two lower points of a sequence; 0 if it falls, then rises.

    max_j min(f_j - min_{i <= j} f_i, f_j - min_{k >= j} f_k)
    """
    values = list(scores)
    before = accumulate(values, min)
    after = reversed(list(accumulate(reversed(values), min)))
    return max((min(f - a, f - b) for f, a, b in zip(values, before, after, strict=True)), default=0.0)


def ternary_search(objective: Callable[[int], float], low: int, high: int) -> Line:
    """Minimise a function of the whole numbers low..high, both included, by ternary search.

    Two inner points divide the interval in thirds and the third beyond the worse one is dropped; the last three points
    are all evaluated. The minimum is found exactly if the function strictly falls, then strictly rises, after at most
    2 log_1.5(high - low + 1) + 3 evaluations. Otherwise it may be missed, and the best point that was met is returned.

    Raises:
        ValueError: there is no number from low to high.
    """
    if low > high:
        raise ValueError(f"low={low}, high={high}: there is nothing to search between them")
    scores: dict[int, float] = {}

    def at(i: int) -> float:
        if i not in scores:
            scores[i] = objective(i)
        return scores[i]

    while high - low >= 3:
        third = (high - low) // 3
        left, right = low + third, high - third
        if at(left) <= at(right):  # of equals one may go: the minimum lies between them
            high = right - 1
        else:
            low = left + 1
    for i in range(low, high + 1):
        at(i)
    return Line(min(sorted(scores), key=scores.__getitem__), dict(sorted(scores.items())))


def greedy_search(objective: Objective, grid: Sequence[float], steps: int) -> Found:
    """Add one level of the grid at a time, each found by ternary search in every gap between the levels so far.

    Args:
        objective: the score of levels.
        grid: descending levels from sigma_max, which stays the first level visited, to sigma_min, which is not visited.
        steps: network evaluations n, 2 <= n <= len(grid) - 1; n (n - 1)/2 ternary searches are made.

    Raises:
        ValueError: the grid is not descending or has too few points.
    """
    if not all(a > b for a, b in pairwise(grid)):
        raise ValueError(f"grid={list(grid)}: levels must be descending, without repetition")
    if not 2 <= steps <= len(grid) - 1:
        raise ValueError(f"steps={steps}: between 2 and {len(grid) - 1} with a grid of {len(grid)} points")

    def score(indices: list[int]) -> float:
        return objective(tuple(grid[i] for i in sorted(indices)))

    chosen, largest = [0], 0.0
    for _ in range(steps - 1):
        gaps = [(a + 1, b - 1) for a, b in pairwise([*chosen, len(grid) - 1]) if b - a > 1]
        lines = [ternary_search(lambda i: score([*chosen, i]), low, high) for low, high in gaps]
        best = min(lines, key=lambda line: line.scores[line.best]).best
        largest = max(largest, *(line.bump for line in lines))
        insort(chosen, best)
    return Found(tuple(grid[i] for i in chosen), largest)


def grid_lines(grid: Sequence[float], levels: Levels) -> Iterator[list[Levels]]:
    """For each level but the first: all levels in which it alone is moved over the grid between its neighbours.

    Args:
        grid: descending levels down to sigma_min.
        levels: a result, whose levels need not lie on the grid.
    """
    bounds = (*levels, grid[-1])
    for k in range(1, len(levels)):
        inside = (level for level in grid if bounds[k - 1] > level > bounds[k + 1])
        yield [(*levels[:k], level, *levels[k + 1 :]) for level in inside]


def joint_search(
    objective: Objective,
    sigma_min: float,
    sigma_max: float,
    steps: int,
    trials: int,
    seed: int = 0,
    start: Levels | None = None,
) -> Levels:
    """Search all levels at once over continuous ln sigma with Optuna's TPE, and return the best.

    A trial draws u_2..u_n in (0, 1) and takes, one below the other,

        ln s_k = ln sigma_min + (ln s_{k-1} - ln sigma_min) u_k^(1/(n - k + 1)),   s_1 = sigma_max,

    which for uniform u are n - 1 independent numbers uniform in (ln sigma_min, ln sigma_max), sorted. The trials are a
    function of the seed and the scores, so an objective that remembers its answers lets an interrupted search go on.

    Args:
        objective: the score of levels.
        sigma_min, sigma_max: the range of levels.
        steps: network evaluations n, >= 2.
        trials: evaluations of the objective, >= 1.
        seed: of the sampler.
        start: levels to try first.

    Raises:
        ValueError: Optuna is not installed, or a number is out of range.
    """
    optuna = import_optuna()
    if steps < 2 or trials < 1:
        raise ValueError(f"steps={steps}, trials={trials}: at least 2 and 1 are needed")
    margin = 1e-3  # u = 0 is sigma_min, and u = 1 would repeat a level
    powers = list(range(steps - 1, 0, -1))
    low, high = math.log(sigma_min), math.log(sigma_max)

    def levels_of(numbers: Iterable[float]) -> Levels:
        logs = [high]
        for u, power in zip(numbers, powers, strict=True):
            logs.append(low + (logs[-1] - low) * u ** (1 / power))
        # six digits, so that `start` comes back as it was
        return (sigma_max, *(float(f"{math.exp(x):.6g}") for x in logs[1:]))

    def trial_score(trial: Any) -> float:
        levels = levels_of(trial.suggest_float(f"u{k}", margin, 1 - margin) for k in range(2, steps + 1))
        if not all(a > b for a, b in pairwise((*levels, sigma_min))):  # rounded to the same
            raise optuna.TrialPruned
        return evaluations(levels)

    evaluations = Evaluations(objective)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    if start is not None:
        shares = [(math.log(b) - low) / (math.log(a) - low) for a, b in pairwise(start)]
        inside = [min(max(x**power, margin), 1 - margin) for x, power in zip(shares, powers, strict=True)]
        study.enqueue_trial({f"u{k}": u for k, u in enumerate(inside, 2)})
    study.optimize(trial_score, n_trials=trials)
    return evaluations.best(steps)


def import_optuna() -> Any:
    """The module optuna, which is an extra of this project.

    Raises:
        ValueError: it is not installed; the message names the command that does it.
    """
    try:
        import optuna
    except ImportError:
        raise ValueError(f"the joint search needs Optuna: {INSTALL}") from None
    return optuna
