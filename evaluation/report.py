"""Scores as a table for a person and as a file for a program."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from evaluation.files import replacing
from evaluation.inversion import InversionScore
from evaluation.scores import Score


def cell(value: float | None, form: str = ".4g") -> str:
    """A number to four digits, nothing for None."""
    return "" if value is None else format(value, form)


def describe_levels(levels: Sequence[float]) -> str:
    """Levels in the order in which they are visited: "0.07 > 80"."""
    return " > ".join(f"{level:g}" for level in levels)


def narrow_table(title: str, left: Sequence[str], right: Sequence[str], caption: str | None = None) -> Table:
    """A table without rows that fits 80 columns: long names are broken before their underscores."""
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    table.padding, table.pad_edge = (0, 1, 0, 0), False
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name.replace("_", "\n_"), justify="right")
    return table


def distances_table(scores: Sequence[Score]) -> Table:
    """One row per score: what depends on a reference, and the numbers of images on both sides where they are known.

    The first score names the columns; where a reference does not give all of them, the others are left empty.
    """
    table = narrow_table("Distances to real images", ("images", "against"), ("N", *scores[0].distances))
    for score in scores:
        protocol = score.protocol
        numbers = sorted({protocol.images, protocol.reference_images or protocol.images})
        cells = [cell(score.distances.get(name)) for name in scores[0].distances]
        table.add_row(protocol.source.name, protocol.reference, ", ".join(map(str, numbers)), *cells)
    return table


def alone_table(scores: Sequence[Score]) -> Table:
    """One row per source: what needs no reference, evaluations and time."""
    names = [name for name in scores[0].alone if "/" not in name]
    table = narrow_table("Images alone", ("images",), ("N", "NFE", "ms each", *names), scores[0].protocol.describe())
    for source, score in {score.protocol.source: score for score in scores}.items():
        milliseconds = None if source.seconds_per_image is None else 1000 * source.seconds_per_image
        table.add_row(
            source.name,
            str(score.protocol.images_alone),
            cell(source.nfe, "g"),
            cell(milliseconds, ".3g"),
            *(cell(score.alone.get(name)) for name in names),
        )
    return table


def shares_table(scores: Sequence[Score]) -> Table:
    """Share of each class (the values named `share_*/class`), one row per source."""
    names = [name for name in scores[0].alone if "/" in name]
    table = narrow_table("Classes read, in %", ("images",), [name.rpartition("/")[2] for name in names])
    for source, score in {score.protocol.source: score for score in scores}.items():
        table.add_row(source.name, *(cell(100 * score.alone[name], ".3g") for name in names))
    return table


def inversion_table(scores: Sequence[InversionScore]) -> Table:
    """One row per way of inversion."""
    table = narrow_table(
        "Inversion: mean squared error per pixel on [0, 1]",
        ("levels",),
        ("N", "NFE in", "out", "error", "control", "variance\nof data", "noise std\n/ level"),
        "control: the same noised images denoised in one evaluation, never inverted",
    )
    for score in scores:
        table.add_row(
            describe_levels(score.levels),
            f"{score.images} {score.split}",
            *(cell(value, "g") for value in (score.nfe_in, score.nfe_out)),
            *(cell(value) for value in (score.error, score.denoising_error, score.variance, score.noise_ratio)),
        )
    return table


def print_report(scores: Sequence[Score], inversions: Sequence[InversionScore], console: Console | None = None) -> None:
    """Print all tables."""
    console = console or Console()
    console.print(distances_table(scores))
    console.print(alone_table(scores))
    if any("/" in name for name in scores[0].alone):
        console.print(shares_table(scores))
    if inversions:
        console.print(inversion_table(inversions))


def scalars(scores: Sequence[Score], inversions: Sequence[InversionScore]) -> dict[str, float]:
    """What a logger keeps: every number of a generated set under `scores/<name>/<split>_<steps>_steps`."""
    values = {
        f"scores/{name}/{score.protocol.reference}_{score.protocol.source.steps}_steps": value
        for score in scores
        for name, value in (score.distances | score.alone).items()
        if score.protocol.source.steps is not None and "/" not in name
    }
    for score in inversions:
        values[f"scores/inversion_error/{len(score.levels) - 1}_steps"] = score.error
        values[f"scores/inversion_noise_ratio/{len(score.levels) - 1}_steps"] = score.noise_ratio
    return values


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    with replacing(path) as file:
        file.write(f"{json.dumps(content, indent=2)}\n".encode())
