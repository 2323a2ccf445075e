"""Scores side by side."""

from dataclasses import replace

import pytest

from evaluation.comparison import Measured, Spread, rows
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
