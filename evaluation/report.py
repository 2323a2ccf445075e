"""Scores as a table for a person and as a file for a program."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from evaluation.inversion import InversionScore
from evaluation.scores import Score


def _cell(value: float | None, form: str = ".4g") -> str:
    return "" if value is None else format(value, form)


def scores_table(scores: Sequence[Score]) -> Table:
    """One row per score, its protocol's numbers first; what the rows share stands in the caption."""
    table = Table(title="Scores", caption=scores[0].protocol.describe(), caption_justify="left")
    names = list(dict.fromkeys(name for score in scores for name in score.values if "/" not in name))
    for name in ("images", "NFE", "ms/image", "against", "N", "N ref", *names):
        table.add_column(name, justify="left" if name in ("images", "against") else "right")
    for score in scores:
        protocol, source = score.protocol, score.protocol.source
        milliseconds = None if source.seconds_per_image is None else 1000 * source.seconds_per_image
        table.add_row(
            source.name,
            _cell(source.nfe, "g"),
            _cell(milliseconds, ".3g"),
            protocol.reference,
            str(protocol.images),
            str(protocol.reference_images),
            *(_cell(score.values.get(name)) for name in names),
        )
    return table


def shares_table(scores: Sequence[Score]) -> Table:
    """Share of each class (the values named `share_*/class`), one row per source."""
    table = Table(title="Classes read, in %")
    names = [name for name in scores[0].values if "/" in name]
    table.add_column("images")
    for name in names:
        table.add_column(name.rpartition("/")[2], justify="right")
    for source, score in {score.protocol.source: score for score in scores}.items():
        table.add_row(source.name, *(_cell(100 * score.values[name], ".1f") for name in names))
    return table


def inversion_table(scores: Sequence[InversionScore]) -> Table:
    """One row per way of inversion."""
    table = Table(
        title="Inversion: mean squared error per pixel on [0, 1]",
        caption="control: denoised from the same initial noise in one evaluation, never inverted",
        caption_justify="left",
    )
    for name in ("levels", "N", "NFE in", "NFE out", "error", "control", "data variance", "noise std / level"):
        table.add_column(name, justify="left" if name == "levels" else "right")
    for score in scores:
        table.add_row(
            " > ".join(f"{level:g}" for level in score.levels),
            f"{score.images} {score.split}",
            *(_cell(value, "g") for value in (score.nfe_in, score.nfe_out)),
            *(_cell(value) for value in (score.error, score.denoising_error, score.variance, score.noise_ratio)),
        )
    return table


def print_report(scores: Sequence[Score], inversions: Sequence[InversionScore], console: Console | None = None) -> None:
    """Print all tables."""
    console = console or Console()
    console.print(scores_table(scores))
    if any("/" in name for name in scores[0].values):
        console.print(shares_table(scores))
    if inversions:
        console.print(inversion_table(inversions))


def scalars(scores: Sequence[Score], inversions: Sequence[InversionScore]) -> dict[str, float]:
    """What a logger keeps: every number of a generated set under `scores/<name>/<split>_<steps>_steps`."""
    values = {
        f"scores/{name}/{score.protocol.reference}_{score.protocol.source.steps}_steps": value
        for score in scores
        for name, value in score.values.items()
        if score.protocol.source.steps is not None and "/" not in name
    }
    for score in inversions:
        values[f"scores/inversion_error/{len(score.levels) - 1}_steps"] = score.error
        values[f"scores/inversion_noise_ratio/{len(score.levels) - 1}_steps"] = score.noise_ratio
    return values


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    with temporary.open("w") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
