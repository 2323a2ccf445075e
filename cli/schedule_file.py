"""The levels of few-step sampling in a file: what `search-schedule` writes, and `sample` and `test` take."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from cli.errors import UsageError
from lightning_modules.allowed import read_yaml
from lightning_modules.bcm import BCMModule, BCMPlan


@dataclass(frozen=True)
class Schedule:
    """Descending noise levels, one network evaluation each, of a method."""

    module: str
    """Class of the method, e.g. "CTModule"."""
    levels: tuple[float, ...]

    @property
    def text(self) -> str:
        """The levels in words: "80 > 0.821"."""
        return levels_text(self.levels)


def levels_text(levels: tuple[float, ...]) -> str:
    """Levels to four digits: "80 > 0.821"."""
    return " > ".join(f"{level:.4g}" for level in levels)


def schedule_yaml(schedule: Schedule, remarks: list[str]) -> str:
    """The text of a schedule file.

    Args:
        schedule: what it holds.
        remarks: lines of comment that stand above.
    """
    return commented({"module": schedule.module, "levels": list(schedule.levels)}, remarks)


def commented(content: dict[str, Any], remarks: list[str]) -> str:
    """YAML text with lines of comment above."""
    lines = [" ".join(remark.split()) for remark in remarks]
    return "".join(f"# {line}\n" for line in lines) + yaml.safe_dump(content, sort_keys=False)


def read_schedule(path: Path | str) -> Schedule:
    """Read a schedule file.

    Raises:
        UsageError: it is missing or holds something else.
    """
    content = read_content(path, {"module", "levels"})
    levels, module = content["levels"], content["module"]
    numbers = isinstance(levels, list) and all(type(level) in (int, float) for level in levels)
    if not isinstance(module, str) or not numbers or not levels:
        raise UsageError(f"--schedule {path}: module must be a class such as CTModule, levels a list of numbers")
    return Schedule(module, tuple(float(level) for level in levels))


def read_content(path: Path | str, keys: set[str]) -> dict[str, Any]:
    """What a file of search-schedule with these keys holds.

    Raises:
        UsageError: it is missing or holds something else.
    """
    try:
        content = read_yaml(Path(path).read_text())
    except OSError:
        raise UsageError(f"--schedule {path}: there is no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UsageError(f"--schedule {path}: this is not YAML") from None
    if not isinstance(content, dict) or set(content) != keys:
        names = " and ".join(sorted(keys, reverse=True))
        raise UsageError(f"--schedule {path}: it must hold {names}, as search-schedule writes them")
    return content


def use_schedule(module: Any, path: Path | str, steps: int | None = None) -> Schedule:
    """Let a module sample through the levels of a file when it is asked for as many evaluations.

    Args:
        module: the method.
        path: the file.
        steps: the number of evaluations that is wanted, None for the file's.

    Raises:
        UsageError: the file cannot be read, or does not fit the module or the number of evaluations.
    """
    schedule = read_schedule(path)
    check_steps(path, schedule.text, len(schedule.levels), steps)
    low, high = level_range(module)
    check_module(path, schedule.module, module)
    if schedule.levels[0] > high or not all(a > b for a, b in pairwise((*schedule.levels, low))):
        raise UsageError(
            f"--schedule {path}: the levels {schedule.text} must descend, from at most sigma_max = {high:g}, "
            f"and stay above sigma_min = {low:g}"
        )
    set_levels(module, schedule.levels)
    return schedule


def check_steps(path: Path | str, text: str, taken: int, steps: int | None) -> None:
    """Raise UsageError if other than the evaluations that the levels of a file take are wanted."""
    if steps not in (None, taken):
        raise UsageError(f"--steps {steps}: the levels {text} of {path} take {taken}")


def check_module(path: Path | str, told: str, module: Any) -> None:
    """Raise UsageError if a file is for another method than a module's."""
    if told != (name := type(module).__name__):
        raise UsageError(f"--schedule {path}: it is for a {told}, and the checkpoint holds a {name}")


def level_range(module: Any) -> tuple[float, float]:
    """(sigma_min, sigma_max) of a module that visits chosen levels when sampling.

    Raises:
        UsageError: it has no levels to choose.
    """
    if not hasattr(module, "schedules") and not isinstance(module, BCMModule):
        raise UsageError(
            f"a {type(module).__name__} has no levels to choose: consistency models have (CTModule, CDModule, "
            f"CTMModule: schedules; BCMModule: plans)"
        )
    if hasattr(module, "ladder") and module.ladder.substeps == 1:
        raise UsageError(
            f"a {type(module).__name__} has no levels to choose: it was trained at the rungs of its ladder alone "
            f"(with ladder.substeps > 1 it learns those between them)"
        )
    return module.denoiser.sigma_min, module.denoiser.sigma_max


def own_levels(module: Any, steps: int) -> tuple[float, ...] | None:
    """The levels that a module's configuration has for `steps` evaluations, None if it has none that fit the module.

    Those of a BCM plan with zigzag rounds are no such levels.
    """
    low, high = level_range(module)
    if isinstance(module, BCMModule):
        offered = [tuple(plan.levels) for plan in module.plans if not plan.rounds]
    else:
        offered = [tuple(levels) for levels in module.schedules]
    return next((o for o in offered if len(o) == steps and high >= o[0] and o[-1] > low), None)


def set_levels(module: Any, levels: tuple[float, ...]) -> None:
    """Make `module.sample(noise, len(levels))` visit `levels`; other numbers of evaluations stay as they are.

    BCM follows the trajectory down through them without new noise (ancestral sampling, no zigzag rounds).
    """
    if isinstance(module, BCMModule):
        module.plans = [BCMPlan(levels), *(plan for plan in module.plans if plan.steps != len(levels))]
    else:
        module.schedules = [levels, *(other for other in module.schedules if len(other) != len(levels))]
