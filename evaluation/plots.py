"""Line plots as SVG text: for a page that needs no script, no library and no network to be read.

Series differ in colour and in the shape of their markers, so that they can be told apart without colours. All colours
are CSS variables of the page (evaluation/page.py), so that one plot serves a light and a dark page.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = 7
"""Of Okabe and Ito's palette, without yellow, which cannot be seen on white; the page's --series-0 to --series-6."""
MARKERS = (
    "M-4.6,0a4.6,4.6 0 1,0 9.2,0a4.6,4.6 0 1,0 -9.2,0z",  # circle
    "M-4.2,-4.2h8.4v8.4h-8.4z",  # square
    "M0,-5.6L5.6,4.4H-5.6z",  # triangle
    "M0,-6L6,0L0,6L-6,0z",  # diamond
    "M0,5.6L5.6,-4.4H-5.6z",  # triangle that points down
    "M-1.8,-5.6h3.6v3.8h3.8v3.6h-3.8v3.8h-3.6v-3.8h-3.8v-3.6h3.8z",  # plus
    "M-4.8,-5L4.8,5H-4.8L4.8,-5z",  # hourglass
    "M-5,-4.8L5,4.8V-4.8L-5,4.8z",  # bow tie
)
DASHES = ("", "7 3", "2 3")
"""Of the lines of series 0 to 6, of 7 to 13, of 14 to 20."""
LEVEL_DASHES = ("10 4", "2 4", "10 3 2 3")
"""Of horizontal lines."""
WIDTH, HEIGHT = 480, 310
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 34, 48
"""Margins of the plotting area, in the same units."""

CSS = """
.plot { display: block; width: 100%; max-width: 620px; height: auto; font: 13px system-ui, sans-serif; }
.plot text { fill: var(--soft); }
.plot .name { fill: var(--ink); font-weight: 600; }
.plot .grid { stroke: var(--rule); stroke-width: 1; }
.plot .frame { stroke: var(--soft); stroke-width: 1; fill: none; }
.plot .line, .key .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.plot .bar { stroke-width: 1.5; fill: none; }
.plot .mark, .key .mark { stroke: var(--ink); stroke-width: 0.8; }
.plot .level, .key .level { stroke: var(--ink); stroke-width: 1.5; fill: none; }
.legend { display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem; list-style: none; margin: 0.6rem 0; padding: 0; }
.legend li { display: flex; align-items: center; gap: 0.4rem; overflow-wrap: anywhere; }
.key { width: 36px; height: 16px; flex: none; }
""" + "".join(
    f".series-{i} {{ stroke: var(--series-{i}); }} .mark.series-{i} {{ fill: var(--series-{i}); }}\n"
    for i in range(COLOURS)
)


@dataclass(frozen=True)
class Series:
    """A line.

    Args:
        name: of what it shows.
        x, y: its points; one with a value that is None or not finite is left out.
        error: half the length of each point's bar, or None.
        style: number of its colour and marker.
        marked: whether its points have markers.
    """

    name: str
    x: Sequence[float | None]
    y: Sequence[float | None]
    error: Sequence[float] | None = None
    style: int = 0
    marked: bool = True

    def points(self) -> list[tuple[float, float, float]]:
        """(x, y, half the bar) of those that can be drawn."""
        errors = self.error or [0.0] * len(self.x)
        return [
            (x, y, e if math.isfinite(e) else 0.0)
            for x, y, e in zip(self.x, self.y, errors, strict=True)
            if x is not None and y is not None and math.isfinite(x) and math.isfinite(y)
        ]


@dataclass(frozen=True)
class Level:
    """A horizontal line, such as what real images score."""

    name: str
    y: float


@dataclass(frozen=True)
class Axis:
    """A range of numbers, linear or logarithmic."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def around(cls, values: Sequence[float], log: bool) -> "Axis":
        """An axis that holds the values with a little room on both sides; [0, 1] or [1, 10] where there are none.

        Args:
            values: finite; on a logarithmic axis those that are not positive are left out.
            log: whether it is logarithmic.
        """
        kept = [math.log10(v) for v in values if v > 0] if log else list(values)
        low, high = (min(kept), max(kept)) if kept else (0.0, 1.0)
        alone = 0.3 if log else 0.1 * abs(low) or 1.0
        room = 0.06 * (high - low) or alone
        low, high = low - room, high + room
        return cls(10**low, 10**high, True) if log else cls(low, high)

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high end; beyond them at the end itself."""
        if self.log:
            at = 0.0 if value <= 0 else math.log(value / self.low) / math.log(self.high / self.low)
        else:
            at = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, at))

    def ticks(self, most: int = 7) -> list[float]:
        """Round numbers in the range: multiples of 1, 2 or 5 times a power of ten, at most so many."""
        if not self.log:
            return linear_ticks(self.low, self.high, most)
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1, 2, 5), (1, 3), (1,)):
            found = [d * 10.0**p for p in powers for d in digits if self.low <= d * 10.0**p <= self.high]
            if len(found) <= most:
                return found if len(found) > 1 else linear_ticks(self.low, self.high, most)
        return found[:: -(-len(found) // most)]


def linear_ticks(low: float, high: float, most: int) -> list[float]:
    """Multiples in [low, high] of the smallest of 1, 2 or 5 times a power of ten that gives at most so many."""
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    while True:
        for digit in (1, 2, 5):
            first, last = math.ceil(low / (digit * step)), math.floor(high / (digit * step))
            if last - first < most:
                return [k * digit * step for k in range(first, last + 1)]
        step *= 10


def tick_text(value: float) -> str:
    """A number on an axis: 0.05, 20, 150k, 3M."""
    for limit, unit in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e6 if unit == 'M' else 1e3):.6g}{unit}"
    return f"{value:.6g}"


def spans_a_decade(values: Sequence[float]) -> bool:
    """Whether positive numbers differ so much that a logarithmic axis is needed to tell the small ones apart."""
    return bool(values) and min(values) > 0 and max(values) > 10 * min(values)


@dataclass(frozen=True)
class Frame:
    """The plotting area: from numbers to places in the picture."""

    x_axis: Axis
    y_axis: Axis

    def x(self, value: float) -> float:
        """From the picture's left edge."""
        return LEFT + (WIDTH - LEFT - RIGHT) * self.x_axis.share(value)

    def y(self, value: float) -> float:
        """From the picture's upper edge."""
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * self.y_axis.share(value)


def line_plot(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    levels: Sequence[Level] = (),
    log_x: bool = False,
) -> str:
    """A plot as an <svg> element; its y axis is logarithmic if the values span more than a factor of 10.

    Args:
        title: what it shows, for those who do not see it.
        series: lines, in the order in which they are drawn.
        x_label: name and unit of what runs to the right.
        y_label: of what runs up; it stands above the axis.
        levels: horizontal lines.
        log_x: whether the x axis is logarithmic; points that are not positive are then left out.
    """
    lines = [(one, sorted(p for p in one.points() if p[0] > 0 or not log_x)) for one in series]
    levels = [level for level in levels if math.isfinite(level.y)]
    points = [p for _, some in lines for p in some]
    middles = [y for _, y, _ in points] + [level.y for level in levels]
    ends = [y + sign * half for _, y, half in points for sign in (-1, 1)]
    log_y = spans_a_decade(middles)
    frame = Frame(Axis.around([x for x, _, _ in points], log_x), Axis.around([*middles, *ends], log_y))
    parts = [f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    parts += _axes(frame, x_label + ", logarithmic" * log_x, y_label + ", logarithmic" * log_y)
    for i, level in enumerate(levels):
        parts.append(
            f'<path class="level" stroke-dasharray="{_cycle(LEVEL_DASHES, i)}" '
            f'd="M{LEFT},{frame.y(level.y):.1f}H{WIDTH - RIGHT}">'
            f"<title>{escape(level.name)}: {level.y:.4g}</title></path>"
        )
    for one, some in lines:
        parts += _series(frame, one, some)
    if not points:
        parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">no values</text>')
    return "".join([*parts, "</svg>"])


def _axes(frame: Frame, x_label: str, y_label: str) -> Iterator[str]:
    """Grid, numbers and names of both axes."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for value in frame.y_axis.ticks():
        y = frame.y(value)
        yield f'<path class="grid" d="M{LEFT},{y:.1f}H{right}"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick_text(value)}</text>'
    for value in frame.x_axis.ticks():
        x = frame.x(value)
        yield f'<path class="grid" d="M{x:.1f},{TOP}V{bottom}"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{tick_text(value)}</text>'
    yield f'<path class="frame" d="M{LEFT},{TOP}V{bottom}H{right}"/>'
    yield f'<text class="name" x="4" y="18">{escape(y_label)}</text>'
    yield f'<text class="name" x="{right}" y="{HEIGHT - 8}" text-anchor="end">{escape(x_label)}</text>'


def _series(frame: Frame, one: Series, points: Sequence[tuple[float, float, float]]) -> Iterator[str]:
    """A line through the points, and at each its bar and its marker, which tells its numbers."""
    colour = f"series-{one.style % COLOURS}"
    if len(points) > 1:
        path = "L".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y, _ in points)
        dashes = _cycle(DASHES, one.style // COLOURS)
        yield f'<path class="line {colour}" stroke-dasharray="{dashes}" d="M{path}"/>'
    for x, y, half in points if one.marked else ():
        at, shape = f"{frame.x(x):.1f}", _cycle(MARKERS, one.style)
        if half > 0:
            low, high = frame.y(y - half), frame.y(y + half)
            ends = "".join(f"M{frame.x(x) - 4:.1f},{end:.1f}h8" for end in (low, high))
            yield f'<path class="bar {colour}" d="M{at},{low:.1f}V{high:.1f}{ends}"/>'
        spread = f" ± {half:.2g}" if half > 0 else ""
        yield (
            f'<path class="mark {colour}" transform="translate({at},{frame.y(y):.1f})" d="{shape}">'
            f"<title>{escape(one.name)} at {x:.4g}: {y:.4g}{spread}</title></path>"
        )


def legend(series: Sequence[tuple[str, int]], levels: Sequence[str] = ()) -> str:
    """A list of names, each beside its line and marker.

    Args:
        series: (name, style) of each.
        levels: names of horizontal lines, in the order of the plot.
    """
    items = []
    for name, style in series:
        colour, dashes = f"series-{style % COLOURS}", _cycle(DASHES, style // COLOURS)
        key = f'<path class="line {colour}" stroke-dasharray="{dashes}" d="M0,8H36"/>'
        key += f'<path class="mark {colour}" transform="translate(18,8)" d="{_cycle(MARKERS, style)}"/>'
        items.append((key, name))
    for i, name in enumerate(levels):
        items.append((f'<path class="level" stroke-dasharray="{_cycle(LEVEL_DASHES, i)}" d="M0,8H36"/>', name))
    keys = (f'<svg class="key" viewBox="0 0 36 16" aria-hidden="true">{key}</svg>' for key, _ in items)
    return (
        f'<ul class="legend">{"".join(f"<li>{k}{escape(n)}</li>" for k, (_, n) in zip(keys, items, strict=True))}</ul>'
    )


def _cycle(choices: Sequence[str], i: int) -> str:
    return choices[i % len(choices)]
