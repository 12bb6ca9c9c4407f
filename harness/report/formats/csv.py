"""CSV: one line per measurement, or a grid as it stands."""

from __future__ import annotations

import csv as csv_module
import io
from collections.abc import Sequence

from harness.report.formats import Format
from harness.report.measurements import Measurement
from harness.report.report import Report
from harness.report.text_table import Grid
from methods.text import printable


class CsvFormat(Format):
    """A line per measurement; of pairs, a line per pair."""

    def files(self, report: Report) -> dict[str, str | bytes]:
        """Return the lines as one text."""
        if report.pairs:
            return {f"{report.stem}.csv": grid_csv(report.grids())}
        return {f"{report.stem}.csv": csv([line for table in report.tables for line in table.lines()])}


def csv(lines: Sequence[Measurement]) -> str:
    """Return one line per measurement, with the columns of `harness.report.measurements.COLUMNS` in their order."""
    from harness.report.measurements import frame

    table = frame(lines)
    words = table.select_dtypes(["object", "string"]).columns
    table[words] = table[words].map(lambda value: _cell(value) if isinstance(value, str) else value)
    text: str = table.to_csv(index=False, lineterminator="\n")
    return text


def grid_csv(grids: Sequence[Grid]) -> str:
    """Return grids of the same header as one CSV, each line opening with its grid's title."""
    text = io.StringIO()
    writer = csv_module.writer(text, lineterminator="\n")
    for place, grid in enumerate(grid.printable() for grid in grids):
        if place == 0:
            writer.writerow(["table", *map(_cell, grid.header)])
        writer.writerows([_cell(grid.title), *(_cell(word.text) for word in row)] for row in grid.body)
    return text.getvalue()


def _cell(text: str) -> str:
    """Return a text that a spreadsheet shows and does not run: an apostrophe goes before what would be a formula."""
    text = printable(text)
    return f"'{text}" if text[1:] and text[0] in "=+-@" and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
