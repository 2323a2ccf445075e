"""What was measured against exact solutions, as tables."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from evaluation.report import cell, narrow_table
from evaluation.resampling import Interval, SetDistance
from evaluation.truth import Gaussianity, InversionTruth, LevelError


def level_table(title: str, rows: Sequence[LevelError]) -> Table:
    """One row per noise level; what the solver's steps change, where the exact answers are solved for."""
    solved = any(row.solver > 0 for row in rows)
    caption = "Best constant: the spread of the exact answers."
    table = narrow_table(
        f"{escape(title)}: RMSE per element, data units",
        ("sigma",),
        ("N", "error", "of the best\nconstant", *(["half the\nsolver's steps"] if solved else [])),
        f"{caption} Half the solver's steps: what they change in them." if solved else caption,
    )
    for row in rows:
        values = (row.error, row.constant, *((row.solver,) if solved else ()))
        table.add_row(f"{row.sigma:.4g}", str(row.points), *map(cell, values))
    return table


def inversion_table(rows: Sequence[InversionTruth]) -> Table:
    """One row per way of inversion."""
    table = narrow_table(
        "Inversion against the exact inverse of x0 + s noise, s the first level",
        ("levels",),
        ("N", "NFE in", "noise error\n/ level", "half the\nsteps", "round\ntrip", "control", "exact\nmap"),
        "RMSE per element. Round trip: regenerated in one evaluation, against x0. Control: the model's denoising of "
        "the same x0 + s noise, never inverted. Exact map: the same by the exact ODE",
    )
    for row in rows:
        values = (row.error, row.solver, row.round_trip, row.control, row.exact)
        path = " > ".join(f"{level:g}" for level in row.levels)
        table.add_row(path, str(row.points), cell(row.nfe, "g"), *(cell(value, ".3g") for value in values))
    return table


def gaussianity_table(rows: Sequence[Gaussianity]) -> Table:
    """One row per way of inversion, the exact inverse, and normal draws."""
    table = narrow_table(
        "Inverted noise over its level",
        ("noise",),
        ("N", "mean", "std", "skewness", "excess\nkurtosis", "SW from\nN(0, 1)"),
        "mean, std and skewness: root mean square over the elements; SW: sliced Wasserstein distance from other normal "
        "draws. The last row is the floor",
    )
    for row in rows:
        values = (row.mean, row.std, row.skewness, row.kurtosis, row.sliced_wasserstein)
        table.add_row(row.name, str(row.points), *(cell(value) for value in values))
    return table


def set_table(rows: Sequence[SetDistance], fresh: str) -> Table:
    """One row per pair of sets, with 95 % intervals; `fresh` says what fresh data are."""
    table = narrow_table(
        "Samples against data, with bootstrap intervals of 95 %",
        ("set", "against"),
        ("N", "SW", "interval", "1000\nMMD^2", "interval"),
        f"SW: sliced Wasserstein distance, data units. Fresh data: {fresh}.",
    )
    for column in table.columns[1:]:
        column.no_wrap = True  # where there is too little room, the names are broken
    for row in rows:
        table.add_row(
            escape(row.name),
            row.against,
            str(row.points),
            *_with_limits(row.sliced_wasserstein),
            *_with_limits(row.squared_mmd, 1000),
        )
    return table


def _with_limits(value: Interval, factor: float = 1) -> tuple[str, str]:
    middle, low, high = (cell(factor * number, ".3g") for number in (value.value, value.low, value.high))
    return middle, f"{low} to {high}"
