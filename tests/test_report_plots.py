"""Plots as SVG: ticks, scales, and where things are drawn, against numbers worked out by hand."""

import math
import re
from xml.etree import ElementTree

import pytest

from evaluation.plots import COLOURS, MARKERS, Axis, Level, Series, legend, line_plot, linear_ticks, tick_text

NAN = math.nan


def drawn(*series, **options):
    """The elements of a plot by their class."""
    text = line_plot("title", series, x_label="NFE", y_label="fd", **options)
    found = {}
    for element in ElementTree.fromstring(text).iter():
        found.setdefault((element.get("class") or element.tag).split()[0], []).append(element)
    return found


def labels(found, anchor):
    """The numbers of an axis."""
    return [t.text for t in found["text"] if t.get("text-anchor") == anchor and t.get("class") is None]


def numbers(text):
    return [float(n) for n in re.findall(r"-?\d+\.?\d*", text)]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.05, "0.05"), (3 * 0.1, "0.3"), (20, "20"), (5000, "5000"), (150_000, "150k"), (3e6, "3M"),
     (-0.5, "-0.5"), (2e-5, "2e-05")],
)  # fmt: skip
def test_numbers_on_an_axis(value, text):
    assert tick_text(value) == text


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.43, 0.67, [0.45, 0.5, 0.55, 0.6, 0.65]),
        (-30, 31, [-30, -20, -10, 0, 10, 20, 30]),
        (3.00095, 3.00145, [3.001, 3.0011, 3.0012, 3.0013, 3.0014]),
    ],
)
def test_linear_ticks(low, high, ticks):
    assert linear_ticks(low, high, 7) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.9, 36, [1, 2, 5, 10, 20]),
        (0.15, 9, [0.2, 0.5, 1, 2, 5]),
        (0.5, 600, [1, 3, 10, 30, 100, 300]),
        (1e-5, 20, [1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10]),
        (1e-9, 1e9, [1e-9, 1e-6, 1e-3, 1, 1e3, 1e6, 1e9]),
        (3, 4.5, [3, 3.5, 4, 4.5]),
    ],
)
def test_logarithmic_ticks(low, high, ticks):
    assert Axis(low, high, True).ticks() == pytest.approx(ticks)


def test_where_values_lie():
    assert [Axis(2, 6).share(v) for v in (2, 3, 6, 1, 7)] == [0, 0.25, 1, 0, 1]
    assert [Axis(1, 100, True).share(v) for v in (1, 10, 100, 0, -1)] == pytest.approx([0, 0.5, 1, 0, 0])


def test_an_axis_leaves_room_and_never_collapses():
    axis = Axis.around([0, 100], False)
    assert (axis.low, axis.high) == (-6, 106)
    axis = Axis.around([1, 100, 0], True)
    assert (axis.low, axis.high) == pytest.approx((10**-0.12, 10**2.12))
    for values, log in (([3.0], False), ([0.0], False), ([3.0], True), ([], True), ([], False)):
        axis = Axis.around(values, log)
        assert axis.low < axis.high and len(axis.ticks()) >= 2


def test_bars_and_markers_are_where_they_should_be():
    """x from 1 to 10 has room of 0.06 decades, y from 1 to 5 of 0.24; the area is 58 to 466 and 34 to 262."""
    found = drawn(Series("CT", [1, 10], [2, 4], [1, 1]), log_x=True)
    left = 58 + 408 * 0.06 / 1.12
    y = {value: 262 - 228 * (value - 0.76) / 4.48 for value in (1, 2, 3)}
    assert numbers(found["mark"][0].get("transform")) == pytest.approx([left, y[2]], abs=0.06)
    at, low, high, *_ = numbers(found["bar"][0].get("d"))
    assert (at, low, high) == pytest.approx((left, y[1], y[3]), abs=0.06)
    assert found["mark"][0][0].text == "CT at 1: 2 ± 1"
    assert numbers(found["line"][0].get("d"))[:2] == pytest.approx([left, y[2]], abs=0.06)


def test_a_bar_below_zero_ends_at_the_end_of_a_logarithmic_axis():
    """It reaches from 0.2 - 0.5 to 0.2 + 0.5."""
    found = drawn(Series("CT", [1, 2], [0.2, 20], [0.5, 0]))
    (bar,) = found["bar"]
    _, low, high, *_ = numbers(bar.get("d"))
    assert low == 262 and 34 < high < 262
    assert "logarithmic" in next(t.text for t in found["name"] if t.text.startswith("fd"))


def test_values_that_are_missing_are_left_out():
    one = Series("CT", [1, 2, None, 4, 8], [1, NAN, 1, None, 3], [NAN, 1, 1, 1, math.inf])
    found = drawn(one, levels=[Level("real", NAN), Level("other", 2.0)], log_x=True)
    assert len(found["mark"]) == 2 and "bar" not in found and len(found["level"]) == 1
    assert "nan" not in line_plot("t", [one], x_label="x", y_label="y").lower()


@pytest.mark.parametrize("series", [[], [Series("CT", [], [])], [Series("CT", [1], [NAN])], [Series("CT", [0], [1])]])
def test_a_plot_of_nothing_says_so(series):
    found = drawn(*series, log_x=True)
    assert "no values" in [t.text for t in found["text"]] and "mark" not in found


def test_points_are_joined_from_left_to_right():
    found = drawn(Series("CT", [4, 1, 2], [1, 2, 3]))
    xs = numbers(found["line"][0].get("d"))[::2]
    assert xs == sorted(xs)
    assert "line" not in drawn(Series("CT", [1], [1])) and len(drawn(Series("CT", [1], [1]))["mark"]) == 1


def test_a_curve_has_no_markers():
    found = drawn(Series("CT", [0, 100_000], [1, 2], marked=False))
    assert "mark" not in found and "50k" not in labels(found, "end") and "20k" in labels(found, "middle")


def test_series_differ_without_colour():
    keys = [legend([(f"method {i}", i)]) for i in range(2 * COLOURS)]
    shapes = [re.sub(r"series-\d|method \d+", "", key) for key in keys]
    assert len(set(MARKERS)) == len(MARKERS) and len(set(shapes)) == len(keys)
    colours = [re.search(r"series-\d", key).group() for key in keys]
    assert len(set(colours)) == COLOURS


def test_names_are_text():
    name = '<b>"A" & B</b>'
    found = drawn(Series(name, [1, 2], [1, 2]), levels=[Level(name, 1.0)])
    assert found["mark"][0][0].text.startswith(name) and found["level"][0][0].text.startswith(name)
    assert "<b>" not in legend([(name, 0)], [name]) and "&lt;b&gt;" in legend([(name, 0)], [name])
    assert 'aria-label="&lt;b&gt;&quot;A' in line_plot(name, [], x_label=name, y_label=name)
