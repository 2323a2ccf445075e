"""The search for sampling levels against exhaustive search, on functions whose minimum is known."""

import math
import random
import sys
import tomllib
from itertools import combinations, pairwise
from pathlib import Path

import pytest

from diffusion.noise import karras_grid
from evaluation.schedule_search import (
    INSTALL,
    Evaluations,
    bump,
    greedy_search,
    grid_lines,
    import_optuna,
    joint_search,
    ternary_search,
)

GRID = karras_grid(39, 0.07, 80.0).flip(0).tolist()


def valley(n, best, seed):
    """n numbers that strictly fall to the index `best`, then strictly rise, by random steps."""
    steps = random.Random(seed)
    left = [0.0]
    for _ in range(best):
        left.append(left[-1] + steps.expovariate(1) + 1e-3)
    right = [0.0]
    for _ in range(n - 1 - best):
        right.append(right[-1] + steps.expovariate(1) + 1e-3)
    return left[:0:-1] + right


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 11, 38, 100])
def test_ternary_search_finds_the_minimum_of_every_valley(n):
    """Exactly, wherever it lies, with a number of evaluations that grows with the logarithm."""
    for best in range(n):
        values, asked = valley(n, best, seed=best), []
        line = ternary_search(lambda i: asked.append(i) or values[i - 5], 5, n + 4)  # noqa: B023 (used up)
        assert line.best == 5 + best and values[best] == min(values)
        assert line.bump == 0 and list(line.scores) == sorted(asked)
        assert len(asked) == len(set(asked)) <= 2 * math.log(n, 1.5) + 3


def test_ternary_search_is_cheaper_than_the_grid():
    asked = []
    ternary_search(lambda i: asked.append(i) or abs(i - 700.3), 0, 999)
    assert len(asked) < 40


def test_of_two_equal_minima_one_is_found():
    for best in range(30):
        assert ternary_search(lambda i: abs(i - best - 0.5), 0, 31).best in (best, best + 1)  # noqa: B023


def test_ternary_search_may_miss_the_minimum_of_two_valleys():
    """What it assumes is needed: the deeper valley is missed without a sign, and the grid line shows it."""
    deep, wide = (lambda i: 30 * abs(i - 2) - 10.0), (lambda i: float(abs(i - 25)))
    values = [min(deep(i), wide(i)) for i in range(38)]
    line = ternary_search(values.__getitem__, 0, 37)
    assert line.best == 25 and min(range(38), key=values.__getitem__) == 2
    assert line.bump == 0  # the points that were met look like one valley
    assert bump(values) == 21  # between -10 at 2 and 0 at 25, at the index 4


@pytest.mark.parametrize(
    ("values", "height"),
    [
        ([], 0),
        ([1], 0),
        ([3, 1, 2], 0),
        ([1, 3], 0),
        ([3, 1], 0),
        ([0, 2, 1, 5], 1),
        ([4, 0, 3, 1, 2], 2),
        ([0, 5, 0], 5),
        ([5, 1, 1, 7], 0),
    ],
)
def test_the_height_of_a_hill(values, height):
    assert bump(values) == height


def distance_in_log(*targets):
    """A score with one minimum along each level, at the targets; too few levels leave the rest of the path to go."""

    def score(levels):
        return sum(min(abs(math.log(level / target)) for level in levels) for target in targets)

    return score


def test_two_steps_are_as_good_as_the_whole_grid():
    for target in (0.1, 0.8, 5.0, 60.0):
        objective = Evaluations(distance_in_log(target))
        found = greedy_search(objective, GRID, 2)
        exhaustive = min(((80.0, level) for level in GRID[1:-1]), key=distance_in_log(target))
        assert found.levels == exhaustive and found.bump == 0
        assert len(objective.scores) <= 2 * math.log(38, 1.5) + 3 < 22
        assert objective.best(2) == found.levels


def test_levels_are_added_one_at_a_time_on_either_side():
    """The best of two steps stays; the next one may lie above it or below."""

    def score(levels):  # 5 is worth most, then 0.5, then 40: each step takes the most valuable one that is left
        return sum(w * min(abs(math.log(x / t)) for x in levels[1:]) for w, t in ((9, 5.0), (3, 0.5), (1, 40.0)))

    nearest = [min(GRID, key=lambda x: abs(math.log(x / t))) for t in (40.0, 5.0, 0.5)]
    two, three, four = (greedy_search(score, GRID, steps).levels for steps in (2, 3, 4))
    assert two[0] == three[0] == four[0] == GRID[0]
    assert set(two) < set(three) < set(four)
    assert four == (GRID[0], *nearest)


def test_greedy_levels_stay_inside_the_grid():
    """The last point of the grid, sigma_min, is not visited, even if it were best; nor is a level repeated."""
    for towards in (max, min):
        levels = greedy_search(lambda levels: towards(levels[1:]), GRID[:6], 5).levels  # noqa: B023
        assert levels == tuple(GRID[:5])
    assert greedy_search(lambda levels: levels[-1], GRID, 2).levels == (GRID[0], GRID[-2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((GRID, 1), "steps=1"),
        ((GRID[:3], 3), "steps=3: between 2 and 2 with a grid of 3 points"),
        ((GRID[::-1], 2), "must be descending"),
        (([80.0, 1.0, 1.0], 2), "must be descending"),
    ],
)
def test_greedy_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        greedy_search(sum, *arguments)


def test_there_must_be_something_to_search():
    with pytest.raises(ValueError, match="low=3, high=2"):
        ternary_search(float, 3, 2)


def test_grid_lines_move_each_level_between_its_neighbours():
    grid = [80.0, 40.0, 20.0, 10.0, 5.0, 1.0]
    assert list(grid_lines(grid, (80.0, 20.0))) == [[(80.0, 40.0), (80.0, 20.0), (80.0, 10.0), (80.0, 5.0)]]
    first, second = grid_lines(grid, (80.0, 30.0, 7.0))
    assert first == [(80.0, 40.0, 7.0), (80.0, 20.0, 7.0), (80.0, 10.0, 7.0)]
    assert second == [(80.0, 30.0, 20.0), (80.0, 30.0, 10.0), (80.0, 30.0, 5.0)]


def test_nothing_is_evaluated_twice():
    asked = []
    evaluations = Evaluations(lambda levels: asked.append(levels) or float(len(asked)))
    assert [evaluations((80.0, level)) for level in (1.0, 2.0, 1.0)] == [1.0, 2.0, 1.0]
    assert asked == [(80.0, 1.0), (80.0, 2.0)] and evaluations.best(2) == (80.0, 1.0)


def test_joint_search_comes_close_to_all_levels_at_once():
    pytest.importorskip("optuna")
    target = (2.0, 0.3)

    def score(levels):
        return sum(math.log(x / t) ** 2 for x, t in zip(levels[1:], target, strict=True))

    found = joint_search(score, 0.07, 80.0, 3, trials=60)
    assert all(a > b for a, b in pairwise((80.0, *found[1:], 0.07))) and found[0] == 80.0
    grid_median = sorted(score((80.0, *pair)) for pair in combinations(GRID[1:-1], 2))
    assert score(found) < grid_median[len(grid_median) // 50]  # better than 98 in 100 of the grid


def test_joint_search_goes_on_where_it_was():
    """Trials depend on the seed and the scores alone, so with answers that are kept nothing is asked anew."""
    pytest.importorskip("optuna")
    asked = []
    objective = Evaluations(lambda levels: asked.append(levels) or abs(levels[1] - 3.0))
    first = joint_search(objective, 0.07, 80.0, 2, trials=12, start=(80.0, 0.821))
    assert asked[0] == (80.0, 0.821) and len(asked) == 12
    assert joint_search(objective, 0.07, 80.0, 2, trials=14, start=(80.0, 0.821))[0] == first[0]
    assert len(asked) == 14
    joint_search(objective, 0.07, 80.0, 2, trials=14, seed=1)
    assert len(asked) == 28


def test_a_missing_optuna_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError) as error:
        import_optuna()
    assert INSTALL in str(error.value) and "\n" not in str(error.value)


def test_the_line_names_an_extra_that_there_is():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert "[search]" in INSTALL and project["optional-dependencies"]["search"][0].startswith("optuna")


def test_joint_search_refuses_one_step():
    pytest.importorskip("optuna")
    with pytest.raises(ValueError, match="steps=1"):
        joint_search(sum, 0.07, 80.0, 1, trials=3)
