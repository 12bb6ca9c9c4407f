"""The charts of the page: from runs and answers to plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from harness.report.answers import Answer
from harness.report.comparisons import Comparison
from harness.report.formats.plots import SERIES, Plot, Point, Series, by_category, by_cost, pareto
from harness.report.layout import natural
from harness.report.runs import Run

_FEWEST = 3
# How far two points of one width stand apart, so that neither hides the other.
_ASIDE = 0.07


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
        value.lines[0].key
        for comparison in reversed(place)
        for _, values in comparison.table.rows
        for value in values
        if value and value.lines
    }
    widths = sorted({run.first.bits for run in known}, key=lambda bits: natural((bits,)))
    if len(widths) > 1:
        series = _series(known, best, standing, lambda run: widths.index(run.first.bits), number)
        yield by_category("Top-1, %, against bits", "bits of weights and activations", widths, series)
    yield from _costs(known, number)
    sized = [run for run in known if run.size]
    if len({run.size for run in sized}) > 1:
        series = _series(sized, best, standing, lambda run: run.size or 1.0, number)
        yield by_cost("Top-1, %, against size", "weights, MB", series)


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


def _costs(runs: Sequence[Run], number: dict[str, int]) -> Iterator[Plot]:
    """Yield accuracy against core-seconds, and against seconds of a GPU, at the width most was measured at."""
    if not runs:
        return
    bits = Counter(run.first.bits for run in runs).most_common(1)[0][0]
    timed = [run for run in runs if run.first.bits == bits and run.core_seconds]
    for device in sorted({run.device for run in timed}):
        mine = [run for run in timed if run.device == device]
        if len(mine) >= _FEWEST:
            unit = "core-seconds" if device == "cpu" else "seconds of a GPU"
            titles = (f"{bits.upper()}: top-1, %, against {unit}", f"synthesis + quantization, {unit}")
            yield by_cost(*titles, *_fronts(mine, number))


def _fronts(runs: Sequence[Run], number: dict[str, int]) -> tuple[list[Series], list[Series]]:
    """Return the series of a chart of costs, the dearest of each front in colour, and what its two fronts are of."""
    names = {number[run.first.key]: run.name for run in runs}
    groups = [
        [_point(run.core_seconds or 1.0, run, number) for run in runs if run.real is real] for real in (False, True)
    ]
    coloured = [point for points in groups for point in pareto(points)[-SERIES // 2 :]]
    shown = {id(point) for point in coloured}
    rest = Series("", [point for points in groups for point in points if id(point) not in shown], joined=False)
    series = [Series(names[point.run or 0], [point], joined=False) for point in coloured]
    return [*series, rest], [Series("", points) for points in groups]


def _point(x: float, run: Run, number: dict[str, int]) -> Point:
    told = f"{run.name}{f' ({run.settings})' if run.settings else ''}, {run.first.bits}: {_figure(run)}"
    return Point(x, run.mean("top1") or 0.0, told, run.error, number[run.first.key])


def _figure(run: Run) -> str:
    spread = "" if run.sd is None else f" ± {run.sd:.2f}"
    return f"{run.mean('top1') or 0.0:.2f}{spread} %, n = {run.first.n}"
