"""Scores of sampling schedules on disk, so that no schedule is scored twice."""

import json
from pathlib import Path
from typing import Any

from cli.errors import UsageError
from evaluation.files import key_of
from evaluation.report import write_json


class ScoreCache:
    """Scores by levels, in a JSON file that holds them for many contexts.

    The file is written after every score, together with what other processes wrote to it meanwhile.

    Args:
        path: the file; it is made when there is something to keep.
        context: everything else that decides a score, as plain values.

    Raises:
        UsageError: the file is there and is no such cache.
    """

    def __init__(self, path: Path, context: dict[str, Any]):
        self.path, self.context = path, context
        self.name = key_of(context)
        self.scores: dict[str, float] = self._read().get(self.name, {}).get("scores", {})

    def get(self, levels: tuple[float, ...]) -> float | None:
        """The score of the levels, None if it is not known."""
        return self.scores.get(_key(levels))

    def put(self, levels: tuple[float, ...], score: float) -> None:
        """Keep a score."""
        content = self._read()
        self.scores = content.get(self.name, {}).get("scores", {}) | self.scores | {_key(levels): score}
        write_json(self.path, content | {self.name: {"context": self.context, "scores": self.scores}})

    def _read(self) -> dict[str, Any]:
        if not self.path.exists():
            return {}
        try:
            content = json.loads(self.path.read_text())
            if all(isinstance(score, float) for part in content.values() for score in part["scores"].values()):
                return content
        except (ValueError, AttributeError, KeyError, TypeError):
            pass
        raise UsageError(f"{self.path} is not a cache of search-schedule: delete it, or name another with --cache")


def _key(levels: tuple[float, ...]) -> str:
    return " ".join(map(repr, levels))  # the shortest text that reads back as the same number
