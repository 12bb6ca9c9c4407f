"""The charts of the page: from runs and answers to plots, from layer reports to heat strips and their table."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from harness.report.answers import Answer
from harness.report.comparisons import Comparison, settings_text
from harness.report.formats.plots import SERIES, Plot, Point, Series, by_category, by_cost, pareto
from harness.report.layout import natural
from harness.report.runs import Run
from harness.report.syntheses import LayerReport
from harness.report.text_table import Grid, Word

_FEWEST = 3
# How far two points of one width stand apart, so that neither hides the other.
_ASIDE = 0.07
# The bits a heat strip is drawn for where they were tried, and the pixels of one of its cells and of a letter.
_BITS, CELL, _LETTER = 4, 15, 6
# Shades of a heat strip, and the fewest powers of ten they stand for together.
SHADES, _LEAST_SPAN = 9, 1.0


def headline(found: Sequence[Answer]) -> Plot:
    """Plot the share of FP32 accuracy kept against bits: the best without data, the best with real images."""
    names = [answer.bits for answer in found]
    free = [_share(place - _ASIDE, answer.best) for place, answer in enumerate(found)]
    real = [_share(place + _ASIDE, answer.real.other) for place, answer in enumerate(found) if answer.real]
    named = (("without data", free), ("with real images", real))
    series = [Series(name, points) for name, points in named if points]
    return by_category(
        "Share of FP32 accuracy kept, %", "bits of weights and activations", names, series, [(100, "FP32")]
    )


def _share(place: float, run: Run) -> Point:
    share, whole = run.mean("retention") or 0.0, run.first.fp32_top1 or 100.0
    error = None if run.error is None else 100 * run.error / whole
    return Point(place, share, f"{run.first.bits}: {run.name}, {share:.1f} % kept ({_figure(run)})", error)


def charts(place: Sequence[Comparison], every: Sequence[Run]) -> Iterator[Plot]:
    """Yield the charts of one model and image set: accuracy against bits, core-seconds and size; eight rows in colour.

    every: all runs in the order of the page's list of them.
    """
    number = {run.first.key: count for count, run in enumerate(every)}
    known = [run for run in every if _belongs(run, place[0]) and run.mean("top1") is not None]
    names = [name for comparison in place for name, _ in comparison.table.rows]
    best = list(dict.fromkeys(name.partition(" (")[0] for name in names if name != "FP32"))[:SERIES]
    standing = {
        line.key
        for comparison in place
        for _, values in comparison.table.rows
        for value in values
        if value
        for line in value.lines
    }
    rules = [(found, "FP32") for found in {run.first.fp32_top1 for run in known} if found]
    widths = sorted({run.first.bits for run in known}, key=lambda bits: natural((bits,)))
    if len(widths) > 1:
        series = _series(known, best, standing, lambda run: widths.index(run.first.bits), number)
        yield by_category("Top-1, %, against bits", "bits of weights and activations", widths, series, rules)
    yield from _costs(known, number, rules)
    yield from _budgets(known, number, rules)
    sized = [run for run in known if run.size]
    if len({run.size for run in sized}) > 1:
        series = _series(sized, best, standing, lambda run: run.size or 1.0, number)
        yield by_cost("Top-1, %, against size", "weights, MB", series, rules=rules)


def _belongs(run: Run, comparison: Comparison) -> bool:
    return run.kind == "comparison" and (run.first.data_sha256, run.first.model) == comparison.place


def _series(
    runs: Sequence[Run], best: Sequence[str], standing: set[str], x: Callable[[Run], float], number: dict[str, int]
) -> list[Series]:
    """Return a series of each of the best rows, where they stand in comparisons, and one of all others."""
    found: list[Series] = []
    used: set[int] = set()
    for name in best:
        mine: dict[float, Run] = {}
        for run in runs:  # of two at one place the first, which is the better
            if run.name == name and run.first.key in standing:
                mine.setdefault(x(run), run)
        used |= {id(run) for run in mine.values()}
        if mine:
            found.append(Series(name, [_point(place, run, number) for place, run in sorted(mine.items())]))
    rest = [_point(x(run), run, number) for run in runs if id(run) not in used]
    return [*found, Series("", rest, joined=False)]


def _costs(runs: Sequence[Run], number: dict[str, int], rules: Sequence[tuple[float, str]]) -> Iterator[Plot]:
    """Yield accuracy against core-seconds, and against seconds of a GPU, at the width most was measured at."""
    for (bits, device), timed in _by_device(runs):
        mine = [run for run in timed if run.core_seconds]
        if len(mine) >= _FEWEST:
            titles = (
                f"{bits.upper()}: top-1, %, against {_unit(device)}",
                f"synthesis + quantization, {_unit(device)}",
            )
            yield by_cost(*titles, *_fronts(mine, number), rules)


def _budgets(runs: Sequence[Run], number: dict[str, int], rules: Sequence[tuple[float, str]]) -> Iterator[Plot]:
    """Yield what longer syntheses give: accuracy against their seconds, of the backend with most to compare."""
    for (bits, device), mine in _by_device(runs):
        found = {name: _curves(mine, name, number) for name in sorted({run.first.backend for run in mine})}
        backend, curves = max(found.items(), key=lambda item: sum(len(each.points) for each in item[1]))
        if len(curves) > 1:
            title = f"{bits.upper()}, {backend}: top-1, %, against the cost of synthesis"
            yield by_cost(title, f"synthesis, {_unit(device)}", curves, rules=rules)


def _curves(runs: Sequence[Run], backend: str, number: dict[str, int]) -> list[Series]:
    """Return a curve for every method that made its images at several costs, all other settings being the same."""
    places = defaultdict[tuple[str, str], dict[float, Run]](dict)
    for run in runs:
        seconds = run.synthesis_seconds
        if run.first.backend == backend and seconds and not run.real:
            places[run.first.method, settings_text(run.first, run.budget)].setdefault(seconds, run)
    return [
        Series(method, [_point(seconds, run, number) for seconds, run in sorted(found.items())])
        for (method, _), found in sorted(places.items())
        if len(found) > 1
    ]


def _by_device(runs: Sequence[Run]) -> Iterator[tuple[tuple[str, str], list[Run]]]:
    """Yield the runs of each device, at the width most was measured at."""
    if runs:
        bits = Counter(run.first.bits for run in runs).most_common(1)[0][0]
        for device in sorted({run.device for run in runs}):
            yield (bits, device), [run for run in runs if run.first.bits == bits and run.device == device]


def _unit(device: str) -> str:
    return "core-seconds" if device == "cpu" else "seconds of a GPU"


def _fronts(runs: Sequence[Run], number: dict[str, int]) -> tuple[list[Series], list[Series]]:
    """Return the series of a chart of costs, the dearest of each front in colour, one of each name, and what its two
    fronts are of."""
    names = {number[run.first.key]: run.name for run in runs}
    groups = [
        [_point(run.core_seconds or 1.0, run, number) for run in runs if run.real is real] for real in (False, True)
    ]
    coloured = [point for points in groups for point in pareto(points)[-SERIES // 2 :]]
    shown = {id(point) for point in coloured}
    rest = Series("", [point for points in groups for point in points if id(point) not in shown], joined=False)
    series = [
        Series(name, [point for point in coloured if names[point.run or 0] == name], joined=False)
        for name in dict.fromkeys(names[point.run or 0] for point in coloured)
    ]
    return [*series, rest], [Series("", points) for points in groups]


def _point(x: float, run: Run, number: dict[str, int]) -> Point:
    told = f"{run.name}{f' ({run.settings})' if run.settings else ''}, {run.first.bits}: {_figure(run)}"
    return Point(x, run.mean("top1") or 0.0, told, run.error, number[run.first.key])


def _figure(run: Run) -> str:
    spread = "" if run.sd is None else f" ± {run.sd:.2f}"
    return f"{run.mean('top1') or 0.0:.2f}{spread} %, n = {run.first.n}"


@dataclass(frozen=True)
class Strip:
    """A heat strip: a row per side, a cell per layer."""

    title: str
    # Name of the side, then of each layer its shade (0 to SHADES - 1) and its words; None where it has no such side.
    rows: list[tuple[str, list[tuple[int, str] | None]]]
    # Names over the columns: where each begins, and the name.
    names: list[tuple[int, str]]
    # What the faintest and the darkest shade stand for; those between are even steps of the logarithm.
    ends: tuple[float, float]


def strips(report: LayerReport) -> list[Strip]:
    """Return two heat strips of the width nearest to four bits: the error of each layer's output, the model's KL."""
    place = min(range(len(report.widths)), key=lambda at: abs(report.widths[at] - _BITS))
    titles = ("Error of the layer's output", "KL divergence of the model's answer from FP32, nats")
    figures = [[(part.errors[place], part.kl[place])[which] for part in report.parts] for which in (0, 1)]
    return [
        _strip(f"{title}, {report.widths[place]} bits", report, values)
        for title, values in zip(titles, figures, strict=True)
    ]


def _strip(title: str, report: LayerReport, values: Sequence[float | None]) -> Strip:
    layers = list(dict.fromkeys(part.layer for part in report.parts))
    known = [value for value in values if value] or [1.0]
    ends = min(known), max(known)
    rows: dict[str, list[tuple[int, str] | None]] = {}
    for part, value in zip(report.parts, values, strict=True):
        if value is not None:
            row = rows.setdefault(part.side, [None] * len(layers))
            row[layers.index(part.layer)] = shade(value, ends), f"{part.layer} {part.side}: {value:.2g}"
    return Strip(title, list(rows.items()), _groups(layers), ends)


def shade(value: float, ends: tuple[float, float]) -> int:
    """Return the shade of a figure between two others, by their logarithms; 0 for none at all."""
    span = max(math.log10(ends[1] / ends[0]), _LEAST_SPAN)
    return round((SHADES - 1) * (1 - math.log10(ends[1] / value) / span)) if value > 0 else 0


def _groups(layers: Sequence[str]) -> list[tuple[int, str]]:
    """Return the names of blocks, each where its first layer is; those that have no room are left out."""
    found, at = [], 0
    for name, group in groupby(layers, key=lambda layer: (re.match(r".*?\d+(\.[a-z]+\.\d+)*", layer) or [layer])[0]):
        count = len(list(group))
        if len(name) * _LETTER <= count * CELL:
            found.append((at, name))
        at += count
    return found


def layers_grid(report: LayerReport) -> Grid:
    """Return a layer report as a table: a line per part, at every width the error of its output and the model's KL."""
    body = []
    for part in report.parts:
        figures = ["-" if value is None else f"{value:.2g}" for value in (*part.errors, *part.kl)]
        body.append([Word(text) for text in (f"{part.layer} {part.side}", str(part.values), *figures)])
    header = ["part", "numbers", *(f"{what}, {width} bits" for what in ("error", "KL") for width in report.widths)]
    title = f"{report.model}, every part alone, {report.backend}, {report.count} images of {report.images}"
    note = "error: squared, of the layer's output, of its square; KL: from FP32, nats; both on the calibration images."
    return Grid(title, header, body, [note])
