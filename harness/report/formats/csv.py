"""CSV: one line per measurement, or a grid as it stands."""

from __future__ import annotations

import csv as csv_module
import io
from collections.abc import Sequence

from harness.report.measurements import Measurement
from harness.report.text_table import Grid


def csv(lines: Sequence[Measurement]) -> str:
    """Return one line per measurement, with the columns of `harness.report.measurements.COLUMNS` in their order."""
    from harness.report.measurements import frame

    text: str = frame(lines).to_csv(index=False, lineterminator="\n")
    return text


def grid_csv(grids: Sequence[Grid]) -> str:
    """Return grids of the same header as one CSV, each line opening with its grid's title."""
    text = io.StringIO()
    writer = csv_module.writer(text, lineterminator="\n")
    for place, grid in enumerate(grids):
        if place == 0:
            writer.writerow(["table", *grid.header])
        writer.writerows([grid.title, *(word.text for word in row)] for row in grid.body)
    return text.getvalue()
