"""Parquet: one row per measurement, with the columns of `harness.report.measurements.COLUMNS`, typed as they are."""

from __future__ import annotations

import io

from harness.report.formats import Format
from harness.report.measurements import frame
from harness.report.report import Report
from methods.errors import UsageError


class ParquetFormat(Format):
    """A row per measurement, for pandas and the like."""

    in_all = False

    def files(self, report: Report) -> dict[str, str | bytes]:
        """Return the rows; raises UsageError for pairs."""
        if report.pairs:
            raise UsageError("--pairs has no Parquet file; --format csv holds the pairs.")
        stream = io.BytesIO()
        frame(report.lines).to_parquet(stream, index=False)
        return {"leaderboard.parquet": stream.getvalue()}
