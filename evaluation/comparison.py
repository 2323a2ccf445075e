"""Many scores side by side: refused if their protocols differ, summed up over seeds, as JSON and CSV."""

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evaluation.files import replacing
from evaluation.inversion import InversionScore
from evaluation.protocol import Protocol
from evaluation.report import describe_levels

INVERSION_NUMBERS = ("error", "denoising_error", "variance", "noise_ratio")
"""Of `InversionScore`."""


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
    """A method at a number of evaluations, against one split: each number's spread over seed ranges and trainings."""

    method: str
    steps: int | None
    reference: str
    images: int
    """Judged images that entered the distances."""
    nfe: float | None
    sampling: str | None
    images_seen: int | None
    seconds_per_image: float | None
    training_seconds: float | None
    values: dict[str, Spread]


def rows(measured: Sequence[Measured]) -> list[Row]:
    """One row for each method, number of evaluations and split, in the order in which they come.

    Scores of several trainings of a method enter one row; its training time is their median.

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


@dataclass(frozen=True)
class InversionRow:
    """A method's inversion through some levels: every number's spread over its trainings; see `InversionScore`."""

    method: str
    levels: tuple[float, ...]
    split: str
    images: int
    nfe_in: float
    nfe_out: float
    values: dict[str, Spread]


def inversion_rows(found: Mapping[str, Sequence[InversionScore]]) -> list[InversionRow]:
    """One row for each method and way of inversion, in the order in which they come."""
    groups: dict[tuple[str, tuple[float, ...]], list[InversionScore]] = {}
    for method, scores in found.items():
        for score in scores:
            groups.setdefault((method, score.levels), []).append(score)
    return [
        InversionRow(
            method,
            levels,
            group[0].split,
            group[0].images,
            group[0].nfe_in,
            group[0].nfe_out,
            {name: Spread.of([getattr(score, name) for score in group]) for name in INVERSION_NUMBERS},
        )
        for (method, levels), group in groups.items()
    ]


def floor_rows(measured: Sequence[Measured]) -> list[Row]:
    """Like `rows`, of real images: a split has no more images than it has, so protocols of two names may differ."""
    names = dict.fromkeys(m.method for m in measured)
    return [row for name in names for row in rows([m for m in measured if m.method == name])]


def against(split: str, found: Sequence[Row], real: Sequence[Row]) -> list[Row]:
    """The rows of methods, then of real images, against a split; half of the training split stands with that split."""
    references = ("train", "other half") if split == "train" else (split,)
    return [row for row in (*found, *real) if row.reference in references]


def _row(key: tuple[str, int | None, str], group: Sequence[Measured]) -> Row:
    source = group[0].protocol.source
    seconds = [m.protocol.source.seconds_per_image for m in group]
    trained = [m.protocol.source.training_seconds for m in group]
    return Row(
        *key,
        images=group[0].protocol.images,
        nfe=source.nfe,
        sampling=source.sampling,
        images_seen=source.images_seen,
        seconds_per_image=statistics.median(s for s in seconds if s is not None) if None not in seconds else None,
        training_seconds=statistics.median(s for s in trained if s is not None) if None not in trained else None,
        values={name: Spread.of([m.values[name] for m in group]) for name in group[0].values},
    )


def table_names(row: Row) -> list[str]:
    """The numbers of a row that `table` shows: neither shares of classes nor what is said of several judges."""
    return [name for name in row.values if "/" not in name and not name.endswith(("_judges", "_judges_std"))]


def as_dict(rows: Sequence[Row], inversions: Sequence[InversionRow] = ()) -> dict[str, Any]:
    """Plain values, for a JSON file; all that differs between two equal comparisons is under "times"."""
    plain = [asdict(row) for row in rows]
    times = [
        {
            "method": row["method"],
            "steps": row["steps"],
            "seconds_per_image": row.pop("seconds_per_image"),
            "training_seconds": row.pop("training_seconds"),
        }
        for row in plain
    ]
    return {"rows": plain, "inversions": [asdict(row) for row in inversions], "times": times}


def write_csv(
    path: Path, rows: Sequence[Row], inversions: Sequence[InversionRow] = (), further: Iterable[Sequence[Any]] = ()
) -> None:
    """One line for each row and number, those of inversions named with their levels, and further lines of as many
    columns; whole or not at all."""
    head = ["method", "steps", "reference", "nfe", "images_seen", "ms_per_image", "training_seconds"]
    head += ["name", "mean", "std", "least"]
    with replacing(path) as file:
        text = io.TextIOWrapper(file, newline="", write_through=True)
        writer = csv.writer(text)
        writer.writerow(head)
        for row in rows:
            milliseconds = None if row.seconds_per_image is None else 1000 * row.seconds_per_image
            for name, spread in row.values.items():
                given = [row.method, row.steps, row.reference, row.nfe, row.images_seen, milliseconds]
                writer.writerow([*given, row.training_seconds, name, spread.mean, spread.std, spread.least])
        for way in inversions:
            for name, spread in way.values.items():
                given = [way.method, len(way.levels) - 1, way.split, way.nfe_in, None, None, None]
                name = f"inversion_{name} ({describe_levels(way.levels)})"
                writer.writerow([*given, name, spread.mean, spread.std, spread.least])
        writer.writerows(further)
        text.detach()
