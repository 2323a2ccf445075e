"""Restorations of several models side by side: rows, plain values for JSON and CSV, a table for a terminal."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table

from evaluation.comparison import Spread
from evaluation.comparison_tables import spread_cell
from evaluation.report import cell, narrow_table

GIVEN, CLEAN = "given", "clean"
"""The rows beside: what was given, returned as it is, and the truth."""


@dataclass(frozen=True)
class Repaired:
    """One way to restore, of one checkpoint, at one number of noise levels.

    Args:
        task: its name in the comparison.
        method: the model's name in the comparison, empty for the rows beside.
        way: the method of restoration, "given", "clean" or "control of" one that inverts.
        steps: noise levels; None of the rows beside and of controls.
        images: restored.
        levels: visited.
        nfe: network evaluations of an image, counted.
        seconds_per_image: the median over batches and seeds.
        values: psnr, ssim, consistency and a distance, means over the images, of every seed of the noise.
        pictures: (n, C, H, W) uint8, the first results of the first seed.
    """

    task: str
    method: str
    way: str
    steps: int | None
    images: int
    levels: tuple[float, ...]
    nfe: float
    seconds_per_image: float | None
    values: dict[str, list[float]]
    pictures: np.ndarray


@dataclass(frozen=True)
class RestorationRow:
    """A way to restore of a method: every number's spread over seeds of the noise and trainings; see `Repaired`."""

    task: str
    method: str
    way: str
    steps: int | None
    images: int
    levels: tuple[float, ...]
    nfe: float
    seconds_per_image: float | None
    values: dict[str, Spread]

    @property
    def milliseconds(self) -> float | None:
        """Of an image."""
        return None if self.seconds_per_image is None else 1000 * self.seconds_per_image


def restoration_rows(found: Sequence[Repaired]) -> list[RestorationRow]:
    """One row for each task, method, way and number of levels, task by task, otherwise in the order given."""
    groups: dict[tuple[str, str, str, int | None], list[Repaired]] = {}
    for one in found:
        groups.setdefault((one.task, one.method, one.way, one.steps), []).append(one)
    tasks = list(dict.fromkeys(one.task for one in found))
    ordered = sorted(groups.items(), key=lambda item: tasks.index(item[0][0]))  # stable
    rows = []
    for key, group in ordered:
        times = [one.seconds_per_image for one in group if one.seconds_per_image is not None]
        rows.append(
            RestorationRow(
                *key,
                images=group[0].images,
                levels=group[0].levels,
                nfe=group[0].nfe,
                seconds_per_image=float(np.median(times)) if times else None,
                values={name: Spread.of([x for one in group for x in one.values[name]]) for name in group[0].values},
            )
        )
    return rows


def plain_rows(rows: Sequence[RestorationRow]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Plain values, for a JSON file, and apart from them the times, which differ between two equal comparisons."""
    plain = [asdict(row) for row in rows]
    names = ("task", "method", "way", "steps")
    times = [{**{n: row[n] for n in names}, "seconds_per_image": row.pop("seconds_per_image")} for row in plain]
    return plain, times


def csv_lines(rows: Sequence[RestorationRow]) -> Iterator[list[Any]]:
    """Lines for `evaluation.comparison.write_csv`: the numbers are named with their task and way."""
    for row in rows:
        for name, spread in row.values.items():
            given = [row.method, row.steps, "test", row.nfe, None, row.milliseconds, None]
            yield [*given, f"{row.task}_{name} ({row.way})", spread.mean, spread.std, spread.least]


def restorations_table(rows: Sequence[RestorationRow], task: str) -> Table:
    """One row for each method, way and number of levels of a task."""
    here = [row for row in rows if row.task == task]
    names = list(here[0].values)
    shown = narrow_table(
        f"{task}: {here[0].images:,} test images restored",
        ("method", "way"),
        ("levels", "NFE", "ms each", *names),
        "consistency: PSNR of the result damaged again against what was given, dB; at most 60",
    )
    for row in here:
        told = [row.method, row.way, cell(row.steps, "g"), cell(row.nfe, "g"), cell(row.milliseconds, ".3g")]
        shown.add_row(*told, *(spread_cell(row.values[name]) for name in names))
    return shown
