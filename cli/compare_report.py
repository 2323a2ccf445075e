"""The report of a comparison: one page with its tables, plots, samples, inversions and training curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import lightning_modules
from cli.compare_grids import COLUMNS, grid
from cli.compare_pictures import SAMPLES
from cli.compare_plan import Plan
from cli.compare_restored import restored_section
from cli.compare_score import Result
from cli.compare_training import read_training
from cli.compare_words import Findings, listed, protocol_in_words, sampling_table, spread_over, what_is_missing
from cli.run_files import run_directory
from evaluation.comparison import INVERSION_NUMBERS, InversionRow, Row, against, table_names
from evaluation.comparison_tables import spread_cell, with_deviation
from evaluation.files import replacing
from evaluation.page import (
    bullets,
    figure,
    flow,
    folded,
    page,
    paragraph,
    side_by_side,
    subsection,
    table,
)
from evaluation.plots import Level, Series, legend, line_plot
from evaluation.report import cell, describe_levels
from evaluation.restoration_rows import RestorationRow

FLOORS = {"train": ("real: test", "real: half of train"), "test": ("real: train",)}
"""Rows of real images that no model can be expected to beat, drawn as lines in the plots against each split."""
BETTER = {"lower": ("fd", "fid", "kd", "kid"), "higher": ("precision", "recall", "obeyed", "is", "cs")}


def write_report(
    path: Path,
    plan: Plan,
    results: Mapping[str, Result],
    rows: Sequence[Row],
    real: Sequence[Row],
    inversions: Sequence[InversionRow],
    restored: Sequence[RestorationRow],
    checkpoints: Mapping[str, Path],
    failed: Mapping[str, str],
    threads: int,
) -> None:
    """Write the page.

    Args:
        path: of the file; its folder is the comparison's name.
        plan: the comparison.
        results: of its methods, in its order.
        rows: of the methods, against both splits.
        real: rows of real images.
        inversions: of the methods that invert.
        restored: restorations, none where the plan asks for none.
        checkpoints: by method.
        failed: trainings that have no scores, and why.
        threads: of each process.
    """
    there = {name for name in lightning_modules.__all__ if name.endswith("Module")}
    findings = Findings(
        title=path.absolute().parent.name,
        spread=spread_over(plan),
        threads=threads,
        results=results,
        rows=rows,
        real=real,
        inversions=inversions,
        restored=restored,
        training={name: read_training(run_directory(str(path))) for name, path in checkpoints.items()},
        absent=sorted(there - {result.pictures.module for result in results.values()}),
        failed=failed,
    )
    with replacing(path) as file:
        file.write(report(findings).encode())


def report(findings: Findings) -> str:
    """The page, HTML text."""
    names = listed(findings.results)
    lead = (
        f"{names}, scored against the same real images by the same judge, from the same seeds. All numbers are in "
        "compare.json and compare.csv beside this file too."
    )
    sections = [
        ("Methods and scores", _tables(findings)),
        ("Quality against evaluations and time", _quality(findings)),
        ("Samples from the same seeds", _samples(findings)),
        ("Inversion", _inversions(findings)),
        *([("Restoration", restored_section(findings.restored, findings.repaired()))] if findings.restored else []),
        ("Training", _training(findings)),
        ("Protocol", _protocol(findings)),
        ("What was not run or is not there", bullets(what_is_missing(findings)) or paragraph("Nothing is missing.")),
    ]
    return page(f"Comparison: {findings.title}", lead, sections)


def _tables(findings: Findings) -> str:
    """Scores against each split, and what each method is and took."""
    parts = []
    for split in ("train", "test"):
        rows = against(split, findings.rows, findings.real)
        names, protocol = table_names(rows[0]), findings.first(split).protocol
        spread = f"mean ± deviation over {findings.spread}" if findings.spread else "single values"
        caption = f"{protocol.images:,} images against the {split} split, {protocol.features}; {spread}"
        shown = [[*_told(row, rows[0]), *(_spread(row, name) for name in names)] for row in rows]
        parts.append(table(caption, ["method", "NFE", "ms each", *names], shown))
        judged = [name.removesuffix("_judges") for name in rows[0].values if name.endswith("_judges")]
        if judged:
            caption = f"Against the {split} split: mean ± deviation over judges, both averaged over the seeds"
            shown = [[*_told(row, rows[0])[:2], *(_over_judges(row, name) for name in judged)] for row in rows]
            parts.append(folded(caption, table(caption, ["method", "NFE", *judged], shown)))
    return "\n".join(parts)


def _told(row: Row, first: Row) -> list[str]:
    """Name, evaluations and milliseconds; a row of another number of images than the first says so."""
    name = row.method if row.images == first.images else f"{row.method}, {row.images:,} images"
    return [name, cell(row.nfe, "g") or "–", cell(_milliseconds(row), ".3g") or "–"]


def _spread(row: Row, name: str) -> str:
    return spread_cell(row.values.get(name), " ± ") or "–"


def _over_judges(row: Row, name: str) -> str:
    return with_deviation(row.values[f"{name}_judges"].mean, row.values[f"{name}_judges_std"].mean, digits=4)


def _quality(findings: Findings) -> str:
    """The first distance against NFE and milliseconds, against both splits; the other numbers against NFE."""
    main, *others = table_names(findings.rows[0])
    keys = [(name, i) for i, name in enumerate(findings.results)]
    bars = f" Bars are the deviation over {findings.spread}." * bool(findings.spread)
    parts = [paragraph(f"{main} of each method; horizontal lines are real images.{bars}")]
    for split in ("train", "test"):
        plots = (_plot(findings, split, main, x) for x in ("NFE", "ms"))
        levels = [level.name for level in _levels(findings, split, main)]
        parts.append(subsection(f"Against the {split} split", legend(keys, levels) + side_by_side(*plots)))
    plots = (_plot(findings, "train", name, "NFE") for name in others)
    levels = [row.method for row in findings.real if row.method in FLOORS["train"]]
    title = f"The other numbers against evaluations: {listed(others)}"
    return "\n".join([*parts, folded(title, legend(keys, levels) + side_by_side(*plots))])


def _plot(findings: Findings, split: str, name: str, x: str) -> str:
    """One number of all methods against evaluations (x "NFE") or milliseconds (x "ms") per image."""
    series = []
    for style, method in enumerate(findings.results):
        rows = [r for r in findings.rows if (r.method, r.reference) == (method, split) and name in r.values]
        at = [r.nfe if x == "NFE" else _milliseconds(r) for r in rows]
        spreads = [r.values[name] for r in rows]
        series.append(Series(method, at, [s.mean for s in spreads], [s.std for s in spreads], style))
    better = [word for word, starts in BETTER.items() if name.partition("_")[0] in starts]
    y_label = f"{name}, {better[0]} is better" if better else name
    x_label = "NFE" if x == "NFE" else "milliseconds per image"
    title = f"{name} against the {split} split by {x_label}, a line for each of {listed(findings.results)}"
    levels = _levels(findings, split, name)
    return line_plot(title, series, x_label=x_label, y_label=y_label, levels=levels, log_x=True)


def _milliseconds(row: Row) -> float | None:
    return None if row.seconds_per_image is None else 1000 * row.seconds_per_image


def _levels(findings: Findings, split: str, name: str) -> list[Level]:
    return [
        Level(row.method, row.values[name].mean)
        for row in against(split, findings.rows, findings.real)
        if row.nfe is None and row.method in FLOORS[split] and name in row.values
    ]


def _samples(findings: Findings) -> str:
    """A grid for every method and number of evaluations."""
    pictures = {name: result.pictures for name, result in findings.results.items()}
    classes = "the same class and " if any(p.conditional for p in pictures.values()) else ""
    first = next(iter(pictures.values()))
    parts = [
        paragraph(
            f"Seeds 0 to {SAMPLES - 1} in rows of {COLUMNS}: the same place in every grid is the same seed, so "
            f"{classes}the same initial noise. The first grid is of real images."
        ),
        figure(grid(first.real, f"{len(first.real)} real test images"), f"{len(first.real)} images of the test split"),
    ]
    for name, shown in pictures.items():
        nfe = {row.steps: row.nfe for row in findings.rows if row.method == name}
        grids = []
        for steps, images in shown.samples.items():
            asked = f"{steps} evaluation{'s' * (steps > 1)}"
            alt = f"{len(images)} samples of {name} with {asked}"
            caption = f"{asked} asked for, NFE {nfe[steps]:g} counted; seeds 0 to {len(images) - 1}"
            grids.append(figure(grid(images, alt), caption))
        parts.append(subsection(name, flow(*grids)))
    return "\n".join(parts)


def _inversions(findings: Findings) -> str:
    """Scores and pairs of each way of inversion."""
    found = [(name, one) for name, result in findings.results.items() for one in result.pictures.inversions]
    if not found:
        return paragraph("No method of this comparison shows inversions.")
    rows = findings.inversions
    head = ["method", "levels", "NFE in", "NFE out", "error", "control", "variance of data", "noise std / level"]
    shown = [
        [row.method, describe_levels(row.levels), f"{row.nfe_in:g}", f"{row.nfe_out:g}"]
        + [spread_cell(row.values[name], " ± ") for name in INVERSION_NUMBERS]
        for row in rows
    ]
    parts = [
        table(f"Inversion of {rows[0].images:,} {rows[0].split} images", head, shown, text=(1,)),
        paragraph(
            "Errors are mean squared, per pixel on [0, 1], of images regenerated from their noise in one evaluation. "
            "The control is the error of the same images denoised from the same small initial noise and never "
            "inverted; what is beyond it is learning error. Below: "
            f"{len(found[0][1].truth)} of the images, and in each column below them what is regenerated from their "
            "noise, and the noise itself (three standard deviations are white)."
        ),
    ]
    pairs = []
    for name, one in found:
        caption = f"{name} through the levels {describe_levels(one.levels)}"
        alt = f"{len(one.truth)} test images, their reconstructions by {name} and their noise, in rows of three kinds"
        kinds = (one.truth, one.back, one.noise)
        images = [kind[i : i + COLUMNS] for i in range(0, len(one.truth), COLUMNS) for kind in kinds]
        pairs.append(figure(grid(np.concatenate(images), alt), caption))
    return "\n".join([*parts, side_by_side(*pairs)])


def _training(findings: Findings) -> str:
    """What each method took, and its loss by images seen."""
    head = ["method", "module", "parameters", "images of training", "minutes", "images per second"]
    rows = []
    for name, result in findings.results.items():
        row = next(row for row in findings.rows if row.method == name)
        minutes = None if row.training_seconds is None else row.training_seconds / 60
        training = findings.training[name]
        speed = None if training is None else training.images_per_second
        numbers = [f"{result.parameters:,}", cell(row.images_seen, ","), cell(minutes, ".3g"), cell(speed, ",.0f")]
        rows.append([name, result.pictures.module, *(number or "–" for number in numbers)])
    caption = (
        "Training: parameters of the generating network, wall clock where the checkpoint has it, and the median speed "
        "in the run's TensorBoard files; what else the machine did meanwhile is in both"
    )
    plots = []
    for style, (name, training) in enumerate(findings.training.items()):
        if training is not None:
            series = [Series(name, training.images, training.loss, style=style, marked=False)]
            title = f"Training loss of {name} by images seen"
            plot = line_plot(title, series, x_label="images seen", y_label=f"{name}: train/loss")
            plots.append(figure(plot, f"{name}, {len(training.images)} points, each the mean since the one before"))
    note = (
        "Losses of different methods are different quantities, so their heights do not compare; and where a curriculum "
        "changes the levels on the way, neither do those of one method at two times."
    )
    return "\n".join([table(caption, head, rows, text=(1,)), paragraph(note) * bool(plots), side_by_side(*plots)])


def _protocol(findings: Findings) -> str:
    head, rows = sampling_table(findings)
    caption = "How the images of each row were made"
    return bullets(protocol_in_words(findings)) + table(caption, head, rows, text=(1, 2))
