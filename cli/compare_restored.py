"""Restoration in a comparison's report: a table and pictures of each task."""

from collections.abc import Iterable, Sequence

from cli.compare_grids import grid
from cli.compare_restorations import SHOWN
from evaluation.comparison_tables import spread_cell
from evaluation.page import figure, flow, paragraph, subsection, table
from evaluation.report import cell, describe_levels
from evaluation.restoration_rows import CLEAN, GIVEN, Repaired, RestorationRow

UNITS = {"psnr": "PSNR, dB", "ssim": "SSIM", "consistency": "consistency, dB"}
BESIDE = {GIVEN: "what was given, returned as it is", CLEAN: "the clean images"}


def restored_section(rows: Sequence[RestorationRow], found: Iterable[Repaired]) -> str:
    """HTML of all tasks, at least one.

    Args:
        rows: of all tasks.
        found: what they were made of; of several trainings the first is shown.
    """
    words = (
        "Clean test images are damaged, restored and compared with what they were. PSNR (of uint8 images) and SSIM are "
        "means over images; consistency is the PSNR of the result damaged again against what was given, at most 60: it "
        "says nothing alone, since what was given has it too. The distance is of all results against the clean "
        "training images. ± is over seeds of the noise, and trainings where there are several. A control is one "
        "evaluation at the level of the small noise that is amplified, which is what a perfect model would make of an "
        "inversion. First levels are not tuned."
    )
    shown: dict[tuple[str, str, str, int | None], Repaired] = {}
    for one in found:
        shown.setdefault((one.task, one.method, one.way, one.steps), one)
    parts = [paragraph(words)]
    for task in dict.fromkeys(row.task for row in rows):
        here = [row for row in rows if row.task == task]
        beside = [row for row in here if not row.method]
        pictures = [
            _figure(row, shown[row.task, row.method, row.way, row.steps])
            for row in (*reversed(beside), *(row for row in here if row.method))
        ]
        parts.append(subsection(task, _table(here) + flow(*pictures)))
    return "\n".join(parts)


def _table(rows: Sequence[RestorationRow]) -> str:
    names = list(rows[0].values)
    head = ["model", "method", "levels", "NFE", "ms each", *(UNITS.get(name, name) for name in names)]
    cells = []
    for row in rows:
        told = [row.method or "–", BESIDE.get(row.way, row.way), _levels(row.levels) or "–", cell(row.nfe, "g")]
        numbers = (spread_cell(row.values[name], " ± ") for name in names)
        cells.append([*told, cell(row.milliseconds, ".3g") or "–", *numbers])
    return table(f"{rows[0].images:,} test images", head, cells, text=(1, 2))


def _levels(levels: tuple[float, ...]) -> str:
    """As visited, to three digits; of many the first and the last."""
    rounded = [float(f"{level:.3g}") for level in levels]
    return describe_levels(rounded) if len(rounded) <= 4 else f"{len(rounded)} from {rounded[0]:g} to {rounded[-1]:g}"


def _figure(row: RestorationRow, one: Repaired) -> str:
    """A row of pictures with its name."""
    name = BESIDE.get(row.way, f"{row.method}, {row.way}")
    if row.steps is not None:
        name += f", {row.steps} level{'s' * (row.steps > 1)}"
    return figure(grid(one.pictures, f"{row.task}: {len(one.pictures)} images, {name}", SHOWN), name)
