"""A comparison as tables for a terminal."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from evaluation.comparison import INVERSION_NUMBERS, InversionRow, Row, Spread
from evaluation.report import cell, describe_levels, narrow_table


def table(title: str, rows: Sequence[Row], names: Sequence[str], caption: str | None = None) -> Table:
    """The rows of one split: method, NFE, milliseconds, and the mean of the named numbers, of the first with deviation.

    A row of another number of images than the first row's says so.
    """
    shown = narrow_table(title, ("method",), ("NFE", "ms each", *names), caption)
    shown.columns[0].min_width = 9  # a word of a name
    shown.columns[3].no_wrap = True
    for row in rows:
        spreads = [row.values.get(name) for name in names]
        shown.add_row(
            _told(row, rows[0].images),
            cell(row.nfe, "g"),
            cell(None if row.seconds_per_image is None else 1000 * row.seconds_per_image, ".3g"),
            *(spread_cell(s) if i == 0 else "" if s is None else _short(s.mean) for i, s in enumerate(spreads)),
        )
    return shown


def _short(value: float) -> str:
    """Three digits, of which below 1 all follow the point."""
    return format(value, ".3f" if abs(value) < 1 else ".3g")


def spread_cell(spread: Spread | None, plus_minus: str = " ±") -> str:
    """Mean and deviation; nothing for None."""
    if spread is None:
        return ""
    return with_deviation(spread.mean, spread.std if len(spread.values) > 1 else None, plus_minus)


def with_deviation(mean: float, deviation: float | None, plus_minus: str = " ± ", digits: int = 3) -> str:
    """A mean, and its deviation to one digit (but all before the point) unless it is None."""
    return f"{mean:.{digits}g}" + ("" if deviation is None else f"{plus_minus}{float(f'{deviation:.1g}'):g}")


def inversions_table(rows: Sequence[InversionRow]) -> Table | None:
    """One row for each method and way of inversion, None where there is none."""
    if not rows:
        return None
    shown = narrow_table(
        f"Inversion of {rows[0].images:,} {rows[0].split} images: mean squared error per pixel on [0, 1]",
        ("method", "levels"),
        ("NFE in", "out", "error", "control", "variance of data", "noise std / level"),
        "control: the same noised images denoised in one evaluation, never inverted",
    )
    for row in rows:
        shown.add_row(
            row.method,
            describe_levels(row.levels),
            cell(row.nfe_in, "g"),
            cell(row.nfe_out, "g"),
            *(spread_cell(row.values[name]) for name in INVERSION_NUMBERS),
        )
    return shown


def _told(row: Row, images: int) -> str:
    return row.method if row.images == images else f"{row.method}, {row.images:,}"


def judges_table(title: str, rows: Sequence[Row], caption: str | None = None) -> Table | None:
    """Every distance as all judges see it: mean and standard deviation over them, both averaged over the seeds.

    None where there is one judge.
    """
    names = [name.removesuffix("_judges") for name in rows[0].values if name.endswith("_judges")]
    if not names:
        return None
    shown = narrow_table(title, ("method",), ("NFE", *names), caption)
    for row in rows:
        pairs = [(row.values[f"{name}_judges"].mean, row.values[f"{name}_judges_std"].mean) for name in names]
        cells = [with_deviation(mean, deviation, " ±", digits=4) for mean, deviation in pairs]
        shown.add_row(_told(row, rows[0].images), cell(row.nfe, "g"), *cells)
    return shown


def classes_table(title: str, rows: Sequence[Row]) -> Table | None:
    """The share of every class among the images (the numbers named share_*/class), None where none is read."""
    names = [name for name in rows[0].values if name.startswith("share_")]
    if not names:
        return None
    shown = narrow_table(title, ("method",), ("NFE", *(name.rpartition("/")[2] for name in names)))
    for row in rows:
        shown.add_row(row.method, cell(row.nfe, "g"), *(cell(100 * row.values[name].mean, ".3g") for name in names))
    return shown


def methods_table(rows: Sequence[Row], parameters: Mapping[str, int]) -> Table:
    """What each method is and took: parameters, training images and minutes of training, empty if not measured.

    Args:
        rows: of all methods; a method's first row counts.
        parameters: of each method's denoiser.
    """
    shown = narrow_table("Methods", ("method",), ("parameters", "images seen", "training min"))
    first = {row.method: row for row in reversed(rows)}
    for method, count in parameters.items():
        row = first[method]
        minutes = None if row.training_seconds is None else row.training_seconds / 60
        shown.add_row(method, f"{count:,}", cell(row.images_seen, ","), cell(minutes, ".3g"))
    return shown
