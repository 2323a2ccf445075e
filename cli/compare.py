"""`compare`: methods side by side, trained, scored and written as one table."""

from collections.abc import Sequence
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
    from cli.compare_score import Task, score_all
    from cli.compare_train import checkpoints

    plan, jobs, threads = parse_plan(args)
    root = Path(plan.root)
    asked = {steps for entry in plan.methods.values() for steps in entry.steps}
    trained = checkpoints(plan, jobs, threads, lambda line: print(line, flush=True))
    tasks = [
        Task(
            name,
            trained[name],
            tuple(entry.steps),
            tuple(plan.seeds()),
            root / "results",
            plan.batch_size,
            plan.inception_weights,
            threads,
            tuple(sorted(asked.difference(entry.steps))),
        )
        for name, entry in plan.methods.items()
    ]
    results = score_all(tasks, jobs)
    _same_data(plan, results)
    new, known = sum(r.new for r in results), sum(len(r.measured) // 2 - r.new for r in results)
    print(f"scores: {new} new, {known} known")
    write(plan, results, trained, threads)


def _same_data(plan: "Plan", results: "Sequence[Result]") -> None:
    """Refuse methods of unlike data."""
    (first, reference), *rest = zip(plan.methods, results, strict=True)
    for name, result in rest:
        if result.data_sha256 != reference.data_sha256:
            raise UsageError(
                f"{first} and {name} cannot stand in one table: their data differ (sha256 "
                f"{reference.data_sha256[:12]} and {result.data_sha256[:12]})"
            )


def write(plan: "Plan", results: "Sequence[Result]", trained: "dict[str, Path]", threads: int) -> None:
    """Print the tables, and write compare.json, compare.csv and report.html under the plan's root."""
    from rich.console import Console

    from cli.compare_board import FOLDER, write_board
    from cli.compare_report import write_report
    from evaluation.comparison import (
        against,
        as_dict,
        classes_table,
        floor_rows,
        judges_table,
        methods_table,
        rows,
        table,
        table_names,
        write_csv,
    )
    from evaluation.report import write_json

    root = Path(plan.root)
    found = rows([m for result in results for m in result.measured])
    real = floor_rows(results[0].floors)
    protocol = results[0].measured[0].protocol
    console = Console()
    for split in ("train", "test"):
        here = against(split, found, real)
        title = f"{here[0].images:,} images against {split}; mean ± deviation over {plan.seed_ranges} seed ranges"
        console.print(table(title, here, table_names(here[0]), protocol.describe()))
        if judged := judges_table(f"Against {split}, mean ± deviation over judges", here):
            console.print(judged)
    if read := classes_table("Classes read, in %", [row for row in (*found, *real) if row.reference != "test"]):
        console.print(read)
    parameters = {name: result.parameters for name, result in zip(plan.methods, results, strict=True)}
    console.print(methods_table(found, parameters))
    content: dict[str, Any] = {
        "protocol": {key: value for key, value in protocol.as_dict().items() if key not in ("source", "reference")},
        "data_sha256": results[0].data_sha256,
        "parameters": parameters,
        **as_dict([*found, *real]),
    }
    write_json(root / "compare.json", content)
    write_csv(root / "compare.csv", [*found, *real])
    write_report(root / "report.html", plan, results, found, real, trained, threads)
    write_board(root / FOLDER, trained, against("train", found, []))
    print(f"written: {root / 'compare.json'}, {root / 'compare.csv'}, {root / 'report.html'}")
    print(f"curves:  tensorboard --logdir {root} (all methods in one chart: custom scalars)")
