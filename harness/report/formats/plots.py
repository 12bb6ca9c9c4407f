"""Plots as numbers ready to be drawn: scales, ticks, markers and Pareto fronts. The page's template draws the SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.statistics import front

WIDTH, HEIGHT = 420, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 42


@dataclass(frozen=True)
class Point:
    """A measurement in a plot's own units; `series` is the row it belongs to, `group` what a front may span."""

    x: float
    y: float
    series: int
    label: str
    group: str = ""


@dataclass(frozen=True)
class Mark:
    """A point in pixels, and whether it is on its group's Pareto front."""

    x: float
    y: float
    series: int
    label: str
    front: bool


@dataclass(frozen=True)
class Plot:
    """A plot in pixels: marks, lines (series or None for a front, its points), ticks (position, text)."""

    title: str
    x_title: str
    marks: list[Mark]
    lines: list[tuple[int | None, str]]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic map of values to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)


def by_category(title: str, x_title: str, names: Sequence[str], points: Sequence[Point]) -> Plot:
    """Plot values over named places (a point's x is the index of its name), the points of a series joined."""
    across = Scale(-0.5, len(names) - 0.5, LEFT, WIDTH - RIGHT)
    ticks = [(across(place), name) for place, name in enumerate(names)]
    series = sorted({point.series for point in points})
    lines = [(number, sorted((p for p in points if p.series == number), key=lambda p: p.x)) for number in series]
    return _plot(title, x_title, across, ticks, points, [(n, found) for n, found in lines if len(found) > 1], [])


def by_cost(title: str, x_title: str, points: Sequence[Point]) -> Plot:
    """Plot values over a cost on a logarithmic scale, with the Pareto front of every group of points."""
    costs = [point.x for point in points]
    low, high = min(costs) / 1.3, max(costs) * 1.3
    across = Scale(low, high, LEFT, WIDTH - RIGHT, log=True)
    ticks = [(across(value), f"{value:g}") for value in _decades(low, high)]
    groups = sorted({point.group for point in points})
    fronts = [_front([point for point in points if point.group == group]) for group in groups]
    return _plot(title, x_title, across, ticks, points, [], fronts)


def _front(points: Sequence[Point]) -> list[Point]:
    first = {(point.x, point.y): point for point in reversed(points)}
    return [first[pair] for pair in front(first)]


def _plot(
    title: str,
    x_title: str,
    across: Scale,
    x_ticks: list[tuple[float, str]],
    points: Sequence[Point],
    lines: list[tuple[int, list[Point]]],
    fronts: list[list[Point]],
) -> Plot:
    values = [point.y for point in points]
    y_ticks = _linear(min(values), max(values))
    up = Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)

    def path(found: Sequence[Point]) -> str:
        return " ".join(f"{across(p.x)},{up(p.y)}" for p in found)

    best = {id(point) for found in fronts for point in found}
    marks = [Mark(across(p.x), up(p.y), p.series, p.label, id(p) in best) for p in points]
    drawn: list[tuple[int | None, str]] = [(number, path(found)) for number, found in lines]
    drawn += [(None, path(found)) for found in fronts if len(found) > 1]
    return Plot(title, x_title, marks, drawn, x_ticks, [(up(value), f"{value:g}") for value in y_ticks])


def _linear(low: float, high: float) -> list[float]:
    """Return about five round ticks around a range."""
    span = max(high - low, 1.0)
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= span / 4)
    first, last = math.floor(low / step - 0.25), math.ceil(high / step + 0.25)
    if high <= 100:  # no room above for percentages
        last = min(last, round(100 / step))
    return [round(place * step, 6) for place in range(first, last + 1)]


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
