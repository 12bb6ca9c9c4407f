"""Leaderboards as data: from records to tables, without torch. `harness.report.formats.console` prints them.

One table per image set. By default rows are method x backend and columns model x bits; a value is the mean over
seeds of measurements that differ in nothing else, so that nothing is averaged that is not the same thing.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from harness.record.record import Record
from harness.report.footnotes import SEVERAL_LIBRARIES, UNTESTED, details, notes
from harness.report.layout import METRICS, Layout, Metric, header, labels, natural
from harness.report.measurements import Measurement, measurements
from harness.report.statistics import LEVEL, Hits, leaders
from harness.report.text_table import Grid, Word


@dataclass(frozen=True)
class Value:
    """One figure: mean and sd over seeds (sd None for one seed), whether it is among the best of its column, the
    adjusted p against the column's leader (None: not tested), a footnote's mark, and its measurements."""

    mean: float
    sd: float | None
    best: bool = False
    p: float | None = None
    mark: str = ""
    lines: tuple[Measurement, ...] = ()
    digits: int = 2

    def text(self) -> str:
        """Return the figure as printed."""
        digits = self.digits
        return f"{self.mean:.{digits}f}" + ("" if self.sd is None else f" ± {self.sd:.{digits}f}")


@dataclass(frozen=True)
class Table:
    """A titled table; a missing value is None. The first row is FP32 where accuracies are known.

    kept: for each row the mean share of FP32 accuracy kept, None where the row lacks a column.
    """

    title: str
    metric: Metric
    header: str
    columns: list[str]
    rows: list[tuple[str, list[Value | None]]]
    kept: list[float | None]
    notes: list[str]
    # What more there is to say, for who asks.
    details: list[str]

    def lines(self) -> list[Measurement]:
        """Return the measurements behind the table, by model, bits, row and seed."""
        found = [line for _, values in self.rows for value in values if value for line in value.lines]
        return sorted(found, key=lambda line: natural((line.model, line.bits, line.method, line.backend, line.seed)))

    def grid(self, verbose: bool = False) -> Grid:
        """Return the table as words to print, with all footnotes or two."""
        shown = any(share is not None for share in self.kept)
        header = [self.header, *self.columns, *(["kept, %"] if shown else [])]
        body = [
            [Word(label), *map(_word, values), *([Word(_share(share))] if shown else [])]
            for (label, values), share in zip(self.rows, self.kept, strict=True)
        ]
        return Grid(self.title, header, body, [*self.notes, *(self.details if verbose else [])])


def _word(value: Value | None) -> Word:
    return Word("-") if value is None else Word(value.text(), value.best, value.mark)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def leaderboards(records: list[Record], layout: Layout | None = None) -> list[Table]:
    """Return a table per image set, ordered by its name and size; one of its own for backbones without a classifier.

    Raises UsageError for unknown fields or metrics and for filters or metrics that leave nothing to show.
    """
    layout = layout or Layout()
    return tables(layout.chosen(measurements(records)), layout)


def tables(lines: list[Measurement], layout: Layout) -> list[Table]:
    """Return a table per image set of measurements, ordered by its name and size; backbones have one of their own."""
    sets: dict[tuple[str, int, str, bool], list[Measurement]] = {}
    for line in lines:
        sets.setdefault((line.data, line.n, line.data_sha256, line.cosine is not None), []).append(line)
    return [table_of(sets[key], layout) for key in sorted(sets)]


def table_of(lines: list[Measurement], layout: Layout) -> Table:
    """Lay out the table of one image set's measurements."""
    metric = METRICS[layout.metric or _usual(lines)]
    if metric.field == "retention" and "model" not in layout.columns:
        metric = replace(metric, tested=False)  # other models have other FP32 accuracies
    groups = _grouped(lines, layout)
    keys = sorted({key for cells in groups.values() for key in cells}, key=natural)
    columns = labels(keys, layout.column_key(), layout.columns)
    values = _marked([[_value(cells.get(key, []), metric) for key in keys] for cells in groups.values()], metric)
    rows = list(zip(labels(list(groups), layout.row_key(), layout.rows), values, strict=True))
    gaps = dict(zip((label for label, _ in rows), _gaps(values, metric), strict=True))
    rows.sort(key=lambda row: (gaps[row[0]], row[0]))
    kept = [_kept(found) if metric.field == "top1" else None for _, found in rows]
    if metric.fp32 and ("model" in layout.columns or layout.one_model(lines)):
        rows, kept = [("FP32", _fp32(groups, keys, metric.fp32)), *rows], [None, *kept]
    marks = {value.mark for _, found in rows for value in found if value}
    title = f"{metric.title} - {lines[0].data}, n = {lines[0].n}"
    told = (notes(lines, metric, marks), details(lines, metric))
    return Table(title, metric, header(layout.rows), columns, rows, kept, *told)


def _usual(lines: list[Measurement]) -> str:
    """Return the metric that is shown where none is asked for."""
    if lines[0].cosine is not None:
        return "cosine"
    return "top1" if all(line.top1 is not None for line in lines) else "agreement"


_Key: TypeAlias = tuple[Any, ...]
_Groups: TypeAlias = dict[_Key, dict[_Key, list[Measurement]]]


def _grouped(lines: list[Measurement], layout: Layout) -> _Groups:
    """Return {row: {column: measurements}}, rows in order of appearance."""
    groups: _Groups = {}
    for line in lines:
        row, column = (
            tuple(getattr(line, name) for name in names) for names in (layout.row_key(), layout.column_key())
        )
        groups.setdefault(row, {}).setdefault(column, []).append(line)
    return groups


def _value(lines: list[Measurement], metric: Metric) -> Value | None:
    """Return the mean and sd over the seeds of one row and column."""
    figures = [float(getattr(line, metric.field)) for line in lines if getattr(line, metric.field) is not None]
    if not figures:
        return None
    spread = statistics.stdev(figures) if len(figures) > 1 else None
    mark = SEVERAL_LIBRARIES if len({line.libraries for line in lines}) > 1 else ""
    return Value(statistics.fmean(figures), spread, mark=mark, lines=tuple(lines), digits=metric.digits)


def _marked(body: list[list[Value | None]], metric: Metric) -> list[list[Value | None]]:
    """Mark the best of every column: the best mean, and what the test does not find worse."""
    columns = [_marked_column(list(column), metric) for column in zip(*body, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


def _marked_column(column: list[Value | None], metric: Metric) -> list[Value | None]:
    known = [value for value in column if value is not None]
    hits = [hits_by_seed(value.lines) if metric.tested else {} for value in known]
    top = (max if metric.higher else min)(value.mean for value in known)
    tested = iter(leaders(hits, [value.mean for value in known]) if any(hits) else [None] * len(known))
    return [value and _judged(value, top, next(tested), any(hits)) for value in column]


def _judged(value: Value, top: float, p: float | None, testing: bool) -> Value:
    mark = value.mark + (UNTESTED if testing and p is None else "")
    return replace(value, best=value.mean == top or (p is not None and p > LEVEL), p=p, mark=mark)


def hits_by_seed(lines: Iterable[Measurement]) -> dict[int, Hits]:
    """Return per-image correctness by seed, of the measurements that have it."""
    found = {line.seed: line.hits() for line in lines}
    return {seed: hits for seed, hits in found.items() if hits is not None}


def _gaps(body: list[list[Value | None]], metric: Metric) -> list[float]:
    """Return how far each row is behind the leaders, on average over the columns it has."""
    tops = [(max if metric.higher else min)(v.mean for v in column if v) for column in zip(*body, strict=True)]
    return [
        statistics.fmean(abs(value.mean - top) for value, top in zip(row, tops, strict=True) if value) for row in body
    ]


def _kept(values: list[Value | None]) -> float | None:
    """Return the mean share of FP32 accuracy kept; None where a column or its FP32 accuracy is missing."""
    shares = [_value(list(value.lines), METRICS["retention"]) if value else None for value in values]
    known = [share.mean for share in shares if share]
    return statistics.fmean(known) if len(known) == len(values) else None


def _fp32(groups: _Groups, keys: list[_Key], field: str) -> list[Value | None]:
    """Return a figure of the floating-point models, by its field."""
    found: list[Value | None] = []
    for key in keys:
        lines = [line for cells in groups.values() for line in cells.get(key, [])]
        known = [value for line in lines if (value := getattr(line, field)) is not None]
        found.append(Value(statistics.fmean(known), None) if known else None)
    return found
