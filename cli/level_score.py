"""What `search-schedule` minimises: a score of levels that is asked once, kept in a file, and printed as a row."""

import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from cli.schedule_file import levels_text
from cli.score_cache import ScoreCache
from evaluation.schedule_search import Levels


class LevelScore(ABC):
    """An objective of `evaluation.schedule_search`.

    Args:
        name: of the score.
        bounds: (low, high), between which the levels that are searched lie; the first level is high.
        cache: file of scores.
        context: everything else that decides a score, as plain values; `checkpoint` in it is the file's sha256.
    """

    digits = 4
    """Of a score behind the point."""

    def __init__(self, name: str, bounds: tuple[float, float], cache: Path, context: dict[str, Any]):
        self.name, self.bounds, self.cache = name, bounds, ScoreCache(cache, context)
        self.checkpoint: str = context["checkpoint"]
        self.rows = self.new = 0

    def __call__(self, levels: Levels) -> float:
        start, score, how = time.monotonic(), self.cache.get(levels), "known"
        if score is None:
            score = self.measure(levels)
            self.cache.put(levels, score)
            self.new += 1
            how = f"{time.monotonic() - start:.1f} s"
        if self.rows == 0:
            print(f"{'':>4}  {'levels':<36}{self.name:>14}")
        self.rows += 1
        print(f"{self.rows:>4}  {self.text(levels):<36}{self.number(score):>14}  {how}", flush=True)
        return score

    def number(self, score: float) -> str:
        """A score as text."""
        return f"{score:.{self.digits}f}"

    def text(self, levels: Levels) -> str:
        """Levels in words, in the order in which they are visited."""
        return levels_text(levels)

    @property
    @abstractmethod
    def protocol(self) -> str:
        """How the score is made, in one line."""

    @abstractmethod
    def measure(self, levels: Levels) -> float:
        """The score itself."""

    @abstractmethod
    def own(self, steps: int) -> Levels | None:
        """The levels that the checkpoint has for so many evaluations, None for none."""

    @abstractmethod
    def remarks(self, best: Levels) -> list[str]:
        """What more is to be said of the result."""

    @abstractmethod
    def file(self, best: Levels, remarks: list[str]) -> str:
        """The text of the file that holds the result, with lines of comment."""

    @abstractmethod
    def uses(self, chosen: str) -> list[str]:
        """What to type next with the options `chosen`, without the program's name."""
