"""Many scores side by side: refused if their protocols differ, summed up over seeds, as table, JSON and CSV."""

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from evaluation.files import replacing
from evaluation.protocol import Protocol
from evaluation.report import cell, narrow_table


@dataclass(frozen=True)
class Measured:
    """One method at one number of evaluations over one range of seeds, against one split.

    Args:
        method: its name in the comparison.
        steps: evaluations asked for; None for real images.
        values: numbers by name.
        protocol: how they were made.
    """

    method: str
    steps: int | None
    values: dict[str, float]
    protocol: Protocol


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation (of the sample; 0 for a single value), least value and all values."""

    mean: float
    std: float
    least: float
    values: list[float]

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """At least one value."""
        return cls(
            statistics.fmean(values),
            statistics.stdev(values) if len(values) > 1 else 0.0,
            min(values),
            values,
        )


@dataclass(frozen=True)
class Row:
    """A method at a number of evaluations, against one split: every number's spread over the ranges of seeds."""

    method: str
    steps: int | None
    reference: str
    nfe: float | None
    sampling: str | None
    images_seen: int | None
    seconds_per_image: float | None
    values: dict[str, Spread]


def rows(measured: Sequence[Measured]) -> list[Row]:
    """One row for each method, number of evaluations and split, in the order in which they come.

    Raises:
        ValueError: scores against the same split have different protocols; the message says which and how.
    """
    groups: dict[tuple[str, int | None, str], list[Measured]] = {}
    first: dict[str, Measured] = {}
    for m in measured:
        other = first.setdefault(m.protocol.reference, m)
        if differences := other.protocol.differences(m.protocol):
            raise ValueError(
                f"{other.method} and {m.method} cannot stand in one table: their protocols differ "
                f"({'; '.join(differences)})"
            )
        groups.setdefault((m.method, m.steps, m.protocol.reference), []).append(m)
    return [_row(key, group) for key, group in groups.items()]


def _row(key: tuple[str, int | None, str], group: Sequence[Measured]) -> Row:
    source = group[0].protocol.source
    seconds = [m.protocol.source.seconds_per_image for m in group]
    return Row(
        *key,
        nfe=source.nfe,
        sampling=source.sampling,
        images_seen=source.images_seen,
        seconds_per_image=statistics.median(s for s in seconds if s is not None) if None not in seconds else None,
        values={name: Spread.of([m.values[name] for m in group]) for name in group[0].values},
    )


def table(title: str, rows: Sequence[Row], names: Sequence[str], caption: str | None = None) -> Table:
    """The rows of one split: method, NFE, milliseconds, and mean and standard deviation of the named numbers."""
    shown = narrow_table(title, ("method",), ("NFE", "ms each", *names), caption)
    for row in rows:
        spreads = [row.values.get(name) for name in names]
        shown.add_row(
            row.method,
            cell(row.nfe, "g"),
            cell(None if row.seconds_per_image is None else 1000 * row.seconds_per_image, ".3g"),
            *("" if s is None else f"{s.mean:.4g}" + (f" ±{s.std:.1g}" if len(s.values) > 1 else "") for s in spreads),
        )
    return shown


def as_dict(rows: Sequence[Row]) -> dict[str, Any]:
    """Plain values, for a JSON file; all that differs between two equal comparisons is under "times"."""
    plain = [asdict(row) for row in rows]
    times = [
        {"method": row["method"], "steps": row["steps"], "seconds_per_image": row.pop("seconds_per_image")}
        for row in plain
    ]
    return {"rows": plain, "times": times}


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """One line for each row and number; whole or not at all."""
    head = ["method", "steps", "reference", "nfe", "images_seen", "ms_per_image", "name", "mean", "std", "least"]
    with replacing(path) as file:
        text = io.TextIOWrapper(file, newline="", write_through=True)
        writer = csv.writer(text)
        writer.writerow(head)
        for row in rows:
            milliseconds = None if row.seconds_per_image is None else 1000 * row.seconds_per_image
            for name, spread in row.values.items():
                given = [row.method, row.steps, row.reference, row.nfe, row.images_seen, milliseconds]
                writer.writerow([*given, name, spread.mean, spread.std, spread.least])
        text.detach()
