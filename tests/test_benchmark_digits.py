"""The comparison on the digits, for runs of one step: what it trains, what its table has, and that it goes on."""

import json

import pytest

from benchmarks import digits


def test_methods_come_after_those_they_start_from():
    def order(*names):
        return [m.name for m in digits.with_their_makers([m for m in digits.METHODS if m.name in names])]

    assert order("2-RF, distilled", "CD") == ["CD", "1-RF", "2-RF", "2-RF, distilled"]
    assert order("1-RF", "2-RF, distilled") == ["1-RF", "2-RF", "2-RF, distilled"]
    assert order(*(m.name for m in digits.METHODS)) == [m.name for m in digits.METHODS]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A table of the teacher and CD, its JSON and its picture."""
    root = tmp_path_factory.mktemp("digits")
    words = ["--root", str(root), "--images", "64", "--num-images", "20", "--methods", "CD"]
    words += ["--json", str(root / "digits.json"), "--picture", str(root / "digits.png")]
    digits.main(words)
    return root, words


def test_a_row_for_every_sampler_and_budget_and_for_every_method(compared, capsys):
    root, _ = compared
    result = json.loads((root / "digits.json").read_text())
    rows = [(row["name"], row["nfe"]) for row in result["rows"]]
    assert len(rows) == 4 * len(digits.SAMPLERS) + 3
    assert all(nfe == row["steps"] for (_, nfe), row in zip(rows, result["rows"], strict=True))
    assert {nfe for name, nfe in rows if name == "Heun"} == {5, 9, 17, 35}
    assert {nfe for name, nfe in rows if name == "3-DEIS"} == {5, 10, 18, 35}
    assert rows[-3:] == [("CD", 1), ("CD", 2), ("CD", 4)]
    assert {row["images_seen"] for row in result["rows"]} == {512}  # a step of the configs' batch
    assert all(row["fd_digits"] > 0 and row["seconds_per_image"] > 0 for row in result["rows"])
    assert (root / "digits.png").stat().st_size > 1000


def test_a_finished_run_is_not_trained_again(compared, capsys):
    root, words = compared
    times = {path: path.stat().st_mtime_ns for path in root.glob("*/*/*/checkpoints/*")}
    digits.main(words)
    assert times and times == {path: path.stat().st_mtime_ns for path in root.glob("*/*/*/checkpoints/*")}
    assert "trained on" not in capsys.readouterr().out
