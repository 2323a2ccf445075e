"""Scores side by side."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from evaluation.comparison import Measured, Spread, as_dict, floor_rows, rows, table_names
from evaluation.comparison_tables import classes_table, judges_table, methods_table, table, with_deviation
from evaluation.protocol import Protocol, Source

PROTOCOL = Protocol(
    images=20,
    reference="train",
    reference_images=20,
    features="digits",
    features_sha256="ab",
    resize="none",
    quantisation="uint8",
    images_alone=20,
    libraries="torch",
    source=Source("CT", steps=1, nfe=1.0, seconds_per_image=0.5),
)


def measured(method="CT", fd=1.0, steps=1, **changes):
    return Measured(method, steps, {"fd": fd}, replace(PROTOCOL, **changes))


def test_spread():
    spread = Spread.of([1.0, 2.0, 6.0])
    assert (spread.mean, spread.least) == (3.0, 1.0) and spread.std == pytest.approx(7**0.5)
    assert Spread.of([2.0]).std == 0.0


def test_rows_gather_ranges_of_seeds():
    found = rows([measured(fd=1.0), measured("CD"), measured(fd=3.0), measured(steps=2)])
    assert [(r.method, r.steps, r.values["fd"].values) for r in found] == [
        ("CT", 1, [1.0, 3.0]),
        ("CD", 1, [1.0]),
        ("CT", 2, [1.0]),
    ]


@pytest.mark.parametrize(
    ("name", "value"), [("images", 10), ("features_sha256", "cd"), ("resize", "bilinear"), ("reference_images", 5)]
)
def test_unlike_protocols_are_refused(name, value):
    with pytest.raises(ValueError, match=f"CT and CD cannot stand in one table.*{name}"):
        rows([measured(), measured("CD", **{name: value})])


def test_what_made_the_images_may_differ():
    other = replace(PROTOCOL.source, name="CD", nfe=2.0, ema_rate=0.5)
    assert len(rows([measured(), measured("CD", source=other, libraries="torch 3")])) == 2


def test_two_splits_are_two_rows():
    assert [r.reference for r in rows([measured(), measured(reference="test", images=5)])] == ["train", "test"]


def test_rows_of_real_images_have_their_own_numbers_of_images():
    found = floor_rows([measured("test", images=5), measured("half"), measured("test", fd=3.0, images=5)])
    assert [(r.method, r.images, r.values["fd"].values) for r in found] == [
        ("test", 5, [1.0, 3.0]),
        ("half", 20, [1.0]),
    ]


def lines(shown):
    """The words of each line of a table."""
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(shown)
    return [line.split() for line in console.export_text().splitlines()]


JUDGED = {"fd_x": 1.0, "fd_x_judges": 2.0, "fd_x_judges_std": 0.5, "fd_x/judge_1": 3.0, "share_x/0": 0.25}


def test_what_several_judges_say_has_its_own_table():
    found = rows([Measured("CT", 1, JUDGED, PROTOCOL), Measured("CT", 1, JUDGED | {"fd_x_judges": 4.0}, PROTOCOL)])
    assert table_names(found[0]) == ["fd_x"]
    assert lines(judges_table("Judges", found))[-2] == ["CT", "1", "3", "±0.5"]
    assert judges_table("Judges", rows([measured()])) is None
    assert lines(classes_table("Classes", found))[-2] == ["CT", "1", "25"]
    assert classes_table("Classes", rows([measured()])) is None


def test_a_row_of_another_number_of_images_says_so():
    found = [*rows([measured()]), *floor_rows([measured("real", images=5)])]
    assert [line[0] for line in lines(table("Scores", found, ["fd"]))[-3:-1]] == ["CT", "real,"]


def test_methods_with_what_they_took():
    timed = replace(PROTOCOL.source, images_seen=600_000, training_seconds=90.0)
    found = rows([measured(source=timed), measured("old")])
    shown = lines(methods_table(found, {"CT": 1234, "old": 5}))
    assert shown[-3:-1] == [["CT", "1,234", "600,000", "1.5"], ["old", "5"]]
    content = as_dict(found)
    assert [time["training_seconds"] for time in content["times"]] == [90.0, None]
    assert "training_seconds" not in content["rows"][0]


@pytest.mark.parametrize(
    ("deviation", "said"),
    [(None, "47.1"), (0.0312, "47.1 ± 0.03"), (2.6, "47.1 ± 3"), (9.7, "47.1 ± 10"), (12.0, "47.1 ± 10")],
)
def test_deviations_have_one_digit_and_no_exponent(deviation, said):
    assert with_deviation(47.12, deviation) == said
