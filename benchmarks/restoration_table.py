"""The results of `benchmarks.restoration` as Markdown: every row of a task, means and deviations over the seeds.

    python -m benchmarks.restoration_table benchmarks/results/restoration_digits.json --figure PNG > TABLES.md

Several files of one kind of image make one table a task; what was given and the clean images are taken from the first
that has the task. The figure has PSNR against the number of network evaluations.
"""

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HEADINGS = {"psnr": "PSNR", "ssim": "SSIM", "consistency": "known", "residual": "residual", "lpips": "LPIPS"}
DIGITS = {"psnr": 1, "ssim": 3, "consistency": 1}
"""Behind the point; 2 for others."""
Key = tuple[str, str, int | None]


def key_of(row: dict[str, Any]) -> Key:
    """Model, method and number of levels; rows beside the methods have no model, a control none of its own levels."""
    beside, control = not row["nfe"], row["method"] == "control"
    return "" if beside else row["model"], row["method"], row["level"] if control else row["steps"]


def rows_by_task(files: Sequence[dict[str, Any]]) -> dict[str, dict[Key, list[dict[str, Any]]]]:
    """The rows of all seeds by task and key, in the files' order; of equal rows those of the first file."""
    found: dict[str, dict[Key, list[dict[str, Any]]]] = {}
    for content in files:
        fresh: dict[str, dict[Key, list[dict[str, Any]]]] = {}
        for row in content["rows"]:
            here = fresh.setdefault(row["task"], {}).setdefault(key_of(row), [])
            if row["seed"] not in (other["seed"] for other in here):
                here.append(row)
        for task, rows in fresh.items():
            held = found.setdefault(task, {})
            found[task] = held | {key: same for key, same in rows.items() if key not in held}
    return found


def cell(name: str, values: Sequence[float]) -> str:
    """The mean of a score, PSNR with the deviation over the seeds."""
    text = f"{statistics.fmean(values):.{DIGITS.get(name, 2)}f}"
    return f"{text} ± {statistics.stdev(values):.1g}" if name == "psnr" and len(values) > 1 else text


def table(rows: dict[Key, list[dict[str, Any]]], leave_out: Sequence[str] = ()) -> Iterator[str]:
    """The lines of a task's table, without the scores that are left out."""
    names = [name for name in next(iter(rows.values()))[0]["scores"] if name not in leave_out]
    names.sort(key=lambda name: [*HEADINGS, name].index(name))
    headings = [
        "model",
        "method",
        "levels",
        "from",
        "small",
        "NFE",
        "ms",
        *(HEADINGS.get(name, name) for name in names),
    ]
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|' * len(headings)}"
    for (model, method, _), same in rows.items():
        first, timed = same[0], [row["milliseconds"] for row in same if row["milliseconds"] is not None]
        numbers = (first["steps"], first["level"], first.get("small"))
        yield (
            "| "
            + " | ".join(
                [
                    *(model, method),
                    *("" if value is None else f"{value:g}" for value in numbers),
                    f"{first['nfe']:g}",
                    f"{statistics.median(timed):.3g}" if timed else "",
                    *(cell(name, [row["scores"][name] for row in same]) for name in names),
                ]
            )
            + " |"
        )


def figure(tasks: dict[str, dict[Key, list[dict[str, Any]]]], path: Path) -> None:
    """PSNR by network evaluations, means over the seeds: a panel for each task, a colour for each model, a marker for
    each method; dotted what was given."""
    from matplotlib.figure import Figure

    keys = [(model, method) for rows in tasks.values() for model, method, _ in rows if model and method != "control"]
    models, methods = (list(dict.fromkeys(names)) for names in zip(*keys, strict=True))
    panels = Figure(figsize=(4.6 * len(tasks), 4.6), dpi=90, layout="constrained")
    lines: dict[tuple[str, str], Any] = {}
    for axis, (task, rows) in zip(panels.subplots(1, len(tasks), squeeze=False)[0], tasks.items(), strict=True):
        curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for (model, method, _), same in rows.items():
            point = same[0]["nfe"], statistics.fmean(row["scores"]["psnr"] for row in same)
            if method == "given":
                axis.axhline(point[1], color="grey", linestyle=":", linewidth=1)
            elif (model, method) in keys:
                curves.setdefault((model, method), []).append(point)
        for (model, method), points in curves.items():
            marker = "os^DvPX*<>ph"[methods.index(method) % 12]
            style = {"marker": marker, "color": f"C{models.index(model)}", "ms": 5, "lw": 1}
            (lines[model, method],) = axis.plot(*zip(*sorted(points), strict=True), **style)
        axis.set(title=task, xscale="log", xlabel="network evaluations", ylabel="PSNR, dB")
    labels = [f"{model}, {method}" for model, method in lines]
    panels.legend(lines.values(), labels, loc="outside right center", fontsize=8)
    panels.savefig(path)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--leave-out", nargs="+", default=[], metavar="SCORE", help="e.g. fd of too few images")
    parser.add_argument("--figure", type=Path, help="draw PSNR against the network evaluations here")
    options = parser.parse_args(argv)
    files = [json.loads(path.read_text()) for path in options.files]
    tasks = rows_by_task(files)
    for task, rows in tasks.items():
        print(f"### {task}\n\n" + "\n".join(table(rows, options.leave_out)) + "\n")
    if options.figure:
        figure(tasks, options.figure)


if __name__ == "__main__":
    main()
