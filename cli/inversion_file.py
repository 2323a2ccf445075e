"""The levels of an inversion in a file: what `search-schedule --inversion` writes, and `invert --schedule` takes."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from cli.errors import UsageError
from cli.schedule_file import check_module, check_steps, commented, levels_text, read_content

KEYS = {"module", "inversion", "back"}


@dataclass(frozen=True)
class InversionSchedule:
    """The way of an inversion."""

    module: str
    """Class of the method, e.g. "BCMModule"."""
    levels: tuple[float, ...]
    """Ascending, from that of the initial noise (0: none) to the one where generation starts."""
    back: tuple[float, ...] = ()
    """Descending, those visited on the way back from there to sigma_min; none for one step."""

    @property
    def text(self) -> str:
        """The levels in words: "0.07 > 0.5 > 80", and with a way back "0.07 > 0.5 > 80 > 0.5 >"."""
        return levels_text(self.levels) + (f" > {levels_text(self.back)} >" if self.back else "")

    def yaml(self, remarks: list[str]) -> str:
        """The text of its file, with lines of comment."""
        content = {"module": self.module, "inversion": list(self.levels), "back": list(self.back)}
        return commented(content, remarks)


def read_inversion(path: Path | str, module: Any, steps: int | None = None) -> InversionSchedule:
    """Read a file for a module.

    Args:
        path: the file.
        module: the method, of a bidirectional model.
        steps: the number of evaluations from image to noise that is wanted, None for the file's.

    Raises:
        UsageError: it is missing, holds something else, or does not fit the module or the number of evaluations.
    """
    content = read_content(path, KEYS)
    up, down = content["inversion"], content["back"]
    lists = isinstance(up, list) and isinstance(down, list) and len(up) >= 2
    if not lists or not all(type(level) in (int, float) for level in (*up, *down)):
        raise UsageError(f"--schedule {path}: inversion must be a list of two or more numbers, back one of numbers")
    found = InversionSchedule(str(content["module"]), tuple(map(float, up)), tuple(map(float, down)))
    low, high = module.denoiser.sigma_min, module.denoiser.sigma_max
    check_module(path, found.module, module)
    check_steps(path, levels_text(found.levels), len(up) - 1, steps)
    path_up = (max(found.levels[0], low), *found.levels[1:])
    path_down = (*found.back, low)
    rises = all(a < b for a, b in pairwise(path_up)) and found.levels[0] >= 0 and found.levels[-1] <= high
    if not rises or not all(a > b for a, b in pairwise((found.levels[-1], *path_down))):
        raise UsageError(
            f"--schedule {path}: the levels {found.text} must ascend to at most sigma_max = {high:g}, and those of the "
            f"way back descend from there, all above sigma_min = {low:g}"
        )
    return found
