"""Protocols: what may be compared, and the way to a file and back."""

import json
from dataclasses import fields, replace

import pytest

from evaluation.protocol import Protocol, Source

PROTOCOL = Protocol(
    images=1437,
    reference="train",
    reference_images=1437,
    features="digits",
    features_sha256="ab" * 32,
    resize="none",
    quantisation="uint8",
    images_alone=2000,
    libraries="torch 2",
    source=Source("BCMModule, 1 step", steps=1, nfe=1.0, seeds="0-1999"),
)


def test_scores_of_two_sources_may_be_compared():
    other = replace(PROTOCOL, source=Source("BCMModule, 2 steps", steps=2, nfe=2.0), images_alone=5000)
    assert PROTOCOL.differences(other) == []
    PROTOCOL.require_comparable(other)


COMPARED = [f.name for f in fields(Protocol) if f.name not in ("source", "images_alone", "libraries")]


@pytest.mark.parametrize("name", COMPARED)
def test_unlike_protocols_are_refused_and_the_difference_named(name):
    other = replace(PROTOCOL, **{name: "another"})
    with pytest.raises(ValueError, match=rf"cannot be compared \({name}: .* and another\)"):
        PROTOCOL.require_comparable(other)


def test_json_round_trip():
    assert Protocol.from_dict(json.loads(json.dumps(PROTOCOL.as_dict()))) == PROTOCOL


@pytest.mark.parametrize("change", [{"extra": 1}, {"source": {"nonsense": 1}}, {"source": None}])
def test_a_file_that_holds_no_protocol_is_refused(change):
    with pytest.raises(ValueError, match="not a protocol"):
        Protocol.from_dict({**PROTOCOL.as_dict(), **change})


def test_a_protocol_is_told_in_one_line_with_its_hash():
    assert "abababababab" in PROTOCOL.describe() and "\n" not in PROTOCOL.describe()
