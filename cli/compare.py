"""`compare`: methods side by side, trained, scored and written as one table."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.errors import UsageError, run_command

if TYPE_CHECKING:
    from cli.compare_plan import Plan
    from cli.compare_score import Result


def compare(args: Sequence[str]) -> int:
    """Run `compare` and return the exit code."""
    return run_command(lambda: _compare(args))


def _compare(args: Sequence[str]) -> None:
    from cli.quiet import quiet

    quiet()
    from cli.compare_plan import parse_plan
    from cli.compare_score import Result, Task, joined, score_all
    from cli.compare_train import train_all

    plan, jobs, threads = parse_plan(args)
    root = Path(plan.root)
    asked = {steps for entry in plan.methods.values() for steps in entry.steps}
    trained = train_all(plan, jobs, threads, lambda line: print(f"{line}\n", end="", flush=True))
    tasks = {
        (name, training): Task(
            name,
            trained.checkpoints[training],
            tuple(entry.steps),
            tuple(plan.seeds()),
            root / "results",
            plan.batch_size,
            plan.inception_weights,
            threads,
            tuple(sorted(asked.difference(entry.steps))),
            entry.arguments,
            entry.averaged,
            plan.restorations,
        )
        for name, entry in plan.methods.items()
        for training in plan.trainings(name)
        if training in trained.checkpoints
    }
    failed = {str(training): reason for training, reason in trained.failed.items()}
    found: dict[str, list[Result]] = {}
    checkpoints: dict[str, Path] = {}
    for ((name, training), task), result in zip(tasks.items(), score_all(list(tasks.values()), jobs), strict=True):
        if isinstance(result, str):
            failed[str(replace(training, name=name))] = result
        else:
            found.setdefault(name, []).append(result)
            checkpoints.setdefault(name, task.checkpoint)
    told = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
    if not found:
        raise UsageError(told)
    results = {name: joined(several) for name, several in found.items()}
    _same_data(results)
    known = sum(len(r.measured) // 2 for r in results.values()) - (new := sum(r.new for r in results.values()))
    print(f"scores: {new} new, {known} known")
    write(plan, results, checkpoints, failed, threads)
    if failed:
        raise UsageError(told)


def _same_data(results: "Mapping[str, Result]") -> None:
    """Refuse methods of unlike data."""
    (first, reference), *rest = results.items()
    for name, result in rest:
        if result.data_sha256 != reference.data_sha256:
            raise UsageError(
                f"{first} and {name} cannot stand in one table: their data differ (sha256 "
                f"{reference.data_sha256[:12]} and {result.data_sha256[:12]})"
            )


def write(
    plan: "Plan",
    results: "Mapping[str, Result]",
    checkpoints: "Mapping[str, Path]",
    failed: dict[str, str],
    threads: int,
) -> None:
    """Print the tables, and write compare.json, compare.csv and report.html under the plan's root.

    Args:
        plan: the comparison.
        results: by method.
        checkpoints: of each of these, the first of its trainings.
        failed: trainings that have no scores, and why.
        threads: of each process.
    """
    from rich.console import Console

    from cli.compare_board import FOLDER, write_board
    from cli.compare_report import write_report
    from cli.compare_words import repaired, spread_over
    from evaluation.comparison import against, as_dict, floor_rows, inversion_rows, rows, table_names, write_csv
    from evaluation.comparison_tables import classes_table, inversions_table, judges_table, methods_table, table
    from evaluation.inversion import InversionScore
    from evaluation.report import write_json
    from evaluation.restoration_rows import csv_lines, plain_rows, restoration_rows, restorations_table

    root, first = Path(plan.root), next(iter(results.values()))
    found = rows([m for result in results.values() for m in result.measured])
    real = floor_rows(first.floors)
    inverted = inversion_rows(
        {name: [i for i in result.inversions if isinstance(i, InversionScore)] for name, result in results.items()}
    )
    protocol = first.measured[0].protocol
    console, over = Console(width=max(Console().width, 108)), spread_over(plan)  # of the table of scores
    for split in ("train", "test"):
        here = against(split, found, real)
        title = f"{here[0].images:,} images against {split}" + (f"; mean ± deviation over {over}" if over else "")
        console.print(table(title, here, table_names(here[0]), protocol.describe()))
        if judged := judges_table(f"Against {split}, mean ± deviation over judges", here):
            console.print(judged)
    if read := classes_table("Classes read, in %", [row for row in (*found, *real) if row.reference != "test"]):
        console.print(read)
    if ways := inversions_table(inverted):
        console.print(ways)
    restored = restoration_rows(repaired(results))
    for name in plan.restorations:
        console.print(restorations_table(restored, name))
    parameters = {name: result.parameters for name, result in results.items()}
    console.print(methods_table(found, parameters))
    content: dict[str, Any] = {
        "protocol": {key: value for key, value in protocol.as_dict().items() if key not in ("source", "reference")},
        "data_sha256": first.data_sha256,
        "parameters": parameters,
        "failed": failed,
        **as_dict([*found, *real], inverted),
    }
    if plan.restorations:
        content["restorations"], content["restoration_times"] = plain_rows(restored)
    write_json(root / "compare.json", content)
    write_csv(root / "compare.csv", [*found, *real], inverted, csv_lines(restored))
    write_report(root / "report.html", plan, results, found, real, inverted, restored, checkpoints, failed, threads)
    write_board(root / FOLDER, checkpoints, against("train", found, []))
    print(f"written: {root / 'compare.json'}, {root / 'compare.csv'}, {root / 'report.html'}")
    print(f"curves:  tensorboard --logdir {root} (all methods in one chart: custom scalars)")
