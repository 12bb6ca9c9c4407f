"""Measurements as a pandas DataFrame, for notebooks and for CSV.

With records = load_records([Path("results/digits")]).sound (`harness.record.records`), the means of a leaderboard are
frame(measurements(records)).groupby(["model", "bits", "method"]).top1.mean().
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from harness.measurements import COLUMNS, Measurement

# Whole numbers, which older records lack.
_NULLABLE = dict.fromkeys(("parameters", "size_bytes", "bitops"), "Int64")


def frame(lines: Sequence[Measurement]) -> pd.DataFrame:
    """Return one row per measurement with the columns of `harness.measurements.COLUMNS`."""
    rows = [[getattr(line, name) for name in COLUMNS] for line in lines]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(_NULLABLE)
