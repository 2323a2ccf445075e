"""The tables of `main.py compare` as Markdown, for the pages of docs/studies.

python -m benchmarks.studies runs/studies/digits/levels/compare.json
"""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from evaluation.comparison_tables import with_deviation

SHOWN = ("fd", "precision", "recall", "confident", "obeyed")
"""Starts of the names of the numbers that are shown."""


def spread(value: dict[str, Any] | None) -> str:
    """Mean ± deviation."""
    if value is None:
        return ""
    return with_deviation(value["mean"], value["std"] if len(value["values"]) > 1 else None)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def scores_table(content: dict[str, Any]) -> str:
    """A row for every method and number of evaluations: distances against both splits, the others once."""
    rows: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    for row in content["rows"]:
        if row["steps"] is not None:
            rows.setdefault((row["method"], row["steps"]), {})[row["reference"]] = row
    first = next(iter(rows.values()))["train"]["values"]
    names = [n for n in first if n.partition("_")[0] in SHOWN and n.count("_") == 1 and "/" not in n]
    main, *others = names
    lines = []
    for (method, steps), splits in rows.items():
        values = splits["train"]["values"]
        cells = [spread(splits[split]["values"].get(main)) for split in ("train", "test")]
        lines.append([method, str(steps), *cells, *(spread(values.get(name)) for name in others)])
    return markdown(["method", "NFE", f"{main}, train", f"{main}, test", *others], lines)


def inversions_table(content: dict[str, Any]) -> str:
    """A row for every method and way of inversion; empty without any."""
    lines = [
        [
            row["method"],
            " > ".join(f"{level:g}" for level in row["levels"]),
            *(spread(row["values"][name]) for name in ("error", "denoising_error", "noise_ratio")),
        ]
        for row in content["inversions"]
    ]
    return markdown(["method", "levels", "error", "control", "noise std / level"], lines) if lines else ""


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables of every file."""
    for name in sys.argv[1:] if argv is None else argv:
        content = json.loads(Path(name).read_text())
        print("\n\n".join(filter(None, (scores_table(content), inversions_table(content)))), end="\n\n")
        for training, reason in content["failed"].items():
            print(f"{training} has no scores: {reason}")


if __name__ == "__main__":
    main()
