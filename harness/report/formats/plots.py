"""Charts as numbers ready to be drawn: scales, ticks, error bars, labels that do not overlap, Pareto fronts.

The page's template draws the SVG. A plotting library would not do it better here: its files have no dark mode, their
text cannot be read by a screen reader or grow on a telephone, and one chart is as large as all of these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.statistics import front

WIDTH, HEIGHT = 500, 300
LEFT, RIGHT, TOP, BOTTOM = 40, 172, 14, 42
SERIES = 8
_LINE = 15
_LONGEST = 21


@dataclass(frozen=True)
class Point:
    """A measurement in a chart's own units."""

    x: float
    y: float
    # What is told of it where it is pointed at.
    label: str
    # Half the length of its error bar.
    error: float | None = None
    # The number of the run it stands for, where whoever draws it has a list of them.
    run: int | None = None


@dataclass(frozen=True)
class Series:
    """Points of one name; one without a name is of those in grey."""

    name: str
    points: Sequence[Point]
    joined: bool = True


@dataclass(frozen=True)
class Mark:
    """A point in pixels, its error bar's ends, and the place of its series among those with a colour."""

    x: float
    y: float
    low: float | None
    high: float | None
    series: int | None
    label: str
    run: int | None


@dataclass(frozen=True)
class Label:
    """A series' name beside where it ends, `tip` being the end itself."""

    text: str
    y: float
    series: int
    tip: tuple[float, float]


@dataclass(frozen=True)
class Plot:
    """A chart in pixels: marks, lines (series, None for a front; points), labels, ticks (position, text)."""

    title: str
    x_title: str
    marks: list[Mark]
    lines: list[tuple[int | None, str]]
    labels: list[Label]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    # Horizontal rules: where, and what is written above their start.
    rules: list[tuple[float, str]]


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic map of values to pixels; what is outside is drawn at the edge."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        value = min(max(value, self.low), self.high)
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)


def by_category(
    title: str, x_title: str, names: Sequence[str], series: Sequence[Series], rules: Sequence[tuple[float, str]] = ()
) -> Plot:
    """Plot percentages over named places (a point's x is the index of its name)."""
    across = Scale(-0.5, len(names) - 0.5, LEFT, WIDTH - RIGHT)
    ticks = [(across(place), name) for place, name in enumerate(names)]
    return _plot((title, x_title), across, ticks, series, [], rules)


def by_cost(
    title: str,
    x_title: str,
    series: Sequence[Series],
    fronts: Sequence[Series] = (),
    rules: Sequence[tuple[float, str]] = (),
) -> Plot:
    """Plot percentages over a cost on a logarithmic scale, with the Pareto front of each of `fronts`' points."""
    costs = [point.x for each in series for point in each.points]
    low, high = min(costs) / 1.3, max(costs) * 1.3
    across = Scale(low, high, LEFT, WIDTH - RIGHT, log=True)
    ticks = [(across(value), f"{value:g}") for value in _decades(low, high)]
    return _plot((title, x_title), across, ticks, series, [pareto(each.points) for each in fronts], rules)


def pareto(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other is both cheaper and better than, by cost."""
    first = {(point.x, point.y): point for point in reversed(points)}
    return [first[pair] for pair in front(first)]


def _plot(
    titles: tuple[str, str],
    across: Scale,
    x_ticks: list[tuple[float, str]],
    series: Sequence[Series],
    fronts: Sequence[Sequence[Point]],
    rules: Sequence[tuple[float, str]] = (),
) -> Plot:
    values = [point.y for each in series for point in each.points] + [value for value, _ in rules]
    y_ticks = percent_ticks(min(values), max(values))
    up = Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)

    def path(found: Sequence[Point]) -> str:
        return " ".join(f"{across(p.x)},{up(p.y)}" for p in found)

    coloured = {id(each): place for place, each in enumerate([each for each in series if each.name][:SERIES])}
    ordered = sorted(series, key=lambda each: id(each) in coloured)  # grey below
    marks = [_mark(point, coloured.get(id(each)), across, up) for each in ordered for point in each.points]
    lines: list[tuple[int | None, str]] = [(None, path(found)) for found in fronts if len(found) > 1]
    lines += [
        (coloured[id(each)], path(each.points))
        for each in series
        if id(each) in coloured and each.joined and len(each.points) > 1
    ]
    ends = [
        Label(_cut(each.name), up(each.points[-1].y), place, (across(each.points[-1].x), up(each.points[-1].y)))
        for each in series
        if (place := coloured.get(id(each))) is not None
    ]
    told = [(up(value), f"{value:g}") for value in y_ticks]
    return Plot(*titles, marks, lines, apart(ends), x_ticks, told, [(up(value), text) for value, text in rules])


def _cut(name: str) -> str:
    """Return a name that fits beside a chart; all of it is told where its points are pointed at."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _mark(point: Point, series: int | None, across: Scale, up: Scale) -> Mark:
    bar = point.error if series is not None else None
    low, high = (None, None) if not bar else (up(point.y - bar), up(point.y + bar))
    return Mark(across(point.x), up(point.y), low, high, series, point.label, point.run)


def apart(labels: Sequence[Label]) -> list[Label]:
    """Return labels moved up and down until none is over another, inside the chart and in the order of their ends."""
    ordered = sorted(labels, key=lambda label: label.y)
    places: list[float] = []
    for label in ordered:
        places.append(max(label.y, places[-1] + _LINE if places else TOP))
    bottom = float(HEIGHT - BOTTOM)
    for number in reversed(range(len(places))):
        places[number] = min(places[number], bottom)
        bottom = places[number] - _LINE
    return [Label(label.text, round(y, 1), label.series, label.tip) for label, y in zip(ordered, places, strict=True)]


def percent_ticks(low: float, high: float) -> list[float]:
    """Return about five round ticks around a range of percentages, none outside 0 to 100."""
    low, high = max(low, 0.0), min(high, 100.0)
    span = max(high - low, 1.0)
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= span / 4)
    first = max(math.floor(low / step - 0.25), 0)
    last = min(math.ceil(high / step + 0.25), round(100 / step))
    return [round(place * step, 6) for place in range(first, max(last, first + 1) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten in a range; powers alone where those are many."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if math.log10(high / low) < 2 else (1,)
    return [
        factor * 10.0**exponent
        for exponent in exponents
        for factor in factors
        if low <= factor * 10.0**exponent <= high
    ]


def curve(values: Sequence[float], width: int = 220, height: int = 60) -> str:
    """Return the points of a small line of a loss over its steps, at most one point per pixel."""
    kept = [values[len(values) * place // width] for place in range(width)] if len(values) > width else list(values)
    low, high = min(kept), max(kept)
    across, up = max(len(kept) - 1, 1), (high - low) or 1.0
    return " ".join(
        f"{width * place / across:.1f},{height - height * (value - low) / up:.1f}" for place, value in enumerate(kept)
    )
