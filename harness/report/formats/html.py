"""The leaderboard as one HTML page that needs nothing else: `python -m harness.leaderboard --format html --out DIR`.

Tables, plots, the details of every row, and where the cache still has them contact sheets and loss curves. Whatever
stands in a record is escaped; the page's content security policy lets nothing but its own script run.
"""

from __future__ import annotations

import base64
import hashlib
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.record.parse import Operations
from harness.report.formats import Format, plots
from harness.report.formats.plots import Plot, Point
from harness.report.measurements import Measurement, megabytes
from harness.report.pairs import pair_grids
from harness.report.report import Report
from harness.report.syntheses import Synthesis, find_synthesis
from harness.report.tables import Table, Value
from harness.report.text_table import Grid
from methods.errors import UsageError
from methods.text import printable

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Entry:
    """One row and column of a leaderboard, with all that its line and its details show."""

    number: int
    data: str
    row: str
    value: Value
    size: float | None
    synthesis: Synthesis | None
    operations: int | None

    @property
    def first(self) -> Measurement:
        """The measurement of the first seed."""
        return self.value.lines[0]

    @property
    def sd(self) -> float | None:
        """The sd of top-1 over seeds, None for one seed."""
        known = [line.top1 for line in self.value.lines if line.top1 is not None]
        return statistics.stdev(known) if len(known) > 1 else None

    def mean(self, field: str) -> float | None:
        """Return the mean of a field over the seeds that have it."""
        known = [getattr(line, field) for line in self.value.lines if getattr(line, field) is not None]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class Board:
    """A leaderboard's grids, its plots and the names of its series."""

    table: Table
    grid: Grid
    pairs: list[Grid]
    plots: list[Plot]
    series: list[str]


class HtmlFormat(Format):
    """One page that needs nothing else."""

    def files(self, report: Report) -> dict[str, str | bytes]:
        """Return the page."""
        if report.pairs:
            raise UsageError("--pairs has no page of its own; the page of --format html holds the pairs.")
        return {"index.html": page(report.tables, report.reported, report.folders)}


def _shown(value: object) -> object:
    """Return what the page shows of a value: of text, signs that can be seen, but for the lines of its own files."""
    return printable(value) if type(value) is str else value


def page(tables: Sequence[Table], reported: Sequence[Grid], folders: Sequence[Path]) -> str:
    """Return the page. Raises UsageError when jinja2 is missing."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise UsageError("The HTML page needs jinja2: pip install -e '.[report]'.") from error
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    operations: list[Operations] = []
    entries = list(_entries(tables, folders, operations))
    script, style = ((_TEMPLATES / name).read_text() for name in ("page.js", "page.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html.j2").render(
        boards=[_board(table, entries) for table in tables],
        reported=reported,
        entries=entries,
        operations=operations,
        syntheses=list({entry.synthesis.key: entry.synthesis for entry in entries if entry.synthesis}.values()),
        script=script,
        script_sha256=digest,
        style=style,
        frame=plots,
    )


def _entries(tables: Sequence[Table], folders: Sequence[Path], operations: list[Operations]) -> Iterator[Entry]:
    """Yield the entries of all tables; lists of quantized operations go to `operations`, each once."""
    number = 0
    for table in tables:
        for label, values in table.rows:
            for value in values:
                if value is None or not value.lines:
                    continue
                number += 1
                line = value.lines[0]
                size = line.size_bytes / 1e6 if line.size_bytes else megabytes(line.model, line.bits, line.parameters)
                found = find_synthesis(line.record, folders)
                place = _place(operations, line.record.quantized_ops)
                yield Entry(number, f"{line.data}, n = {line.n}", label, value, size, found, place)


def _place(known: list[Operations], found: Operations) -> int | None:
    """Return the number (from 1) of a list of operations among those known, adding it; None when it is empty."""
    if not found:
        return None
    if found not in known:
        known.append(found)
    return known.index(found) + 1


def _board(table: Table, entries: Sequence[Entry]) -> Board:
    series = [label for label, values in table.rows if any(value and value.lines for value in values)]
    shown = {id(value) for _, values in table.rows for value in values if value}
    mine = [entry for entry in entries if id(entry.value) in shown]
    return Board(table, table.grid(), pair_grids(table), list(_plots(table, mine, series)), series)


def _plots(table: Table, entries: Sequence[Entry], series: list[str]) -> Iterator[Plot]:
    """Yield accuracy over bits and over seconds for each model, and over size for all."""
    title = table.metric.title
    widths = list(dict.fromkeys(entry.first.bits for entry in sorted(entries, key=_width)))
    for model in sorted({entry.first.model for entry in entries}):
        mine = [entry for entry in entries if entry.first.model == model]
        points = [_point(widths.index(entry.first.bits), entry, series) for entry in mine]
        yield plots.by_category(f"{model}: {title} against bits", "bits", widths, points)
        costs = [(entry.mean("seconds"), entry) for entry in mine]
        dear = [_point(cost, entry, series) for cost, entry in costs if cost]
        if dear:
            yield plots.by_cost(f"{model}: {title} against seconds", "synthesis + quantization, s", dear)
    sized = [_point(entry.size, entry, series, "") for entry in entries if entry.size]
    if sized:
        yield plots.by_cost(f"{title} against model size", "weights, MB", sized)


def _width(entry: Entry) -> tuple[int, int]:
    return entry.first.bits.weights, entry.first.bits.activations


def _point(x: float, entry: Entry, series: list[str], group: str | None = None) -> Point:
    line = entry.first
    label = f"{entry.row}, {line.model} {line.bits}: {entry.value.text()}"
    return Point(x, entry.value.mean, series.index(entry.row), label, line.bits if group is None else group)
