"""The report: all that a leaderboard says, made from records once and handed to whichever format writes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness.report.pairs import pair_grids
from harness.report.reported import Figure, reported_grid
from harness.report.tables import Table
from harness.report.text_table import Grid
from methods.errors import UsageError


@dataclass(frozen=True)
class Report:
    """What every format is given."""

    # A table per image set.
    tables: Sequence[Table]
    # What papers report, to stand beside what was measured.
    figures: Sequence[Figure] = ()
    # The results folders the records came from; pictures lie there.
    folders: Sequence[Path] = ()
    # Whether every pair of rows is compared, instead of the rows shown.
    pairs: bool = False

    @property
    def stem(self) -> str:
        """What a file of it is called, without its ending."""
        return "pairs" if self.pairs else "leaderboard"

    @cached_property
    def reported(self) -> list[Grid]:
        """What papers report for rows of each table that has such."""
        return [grid for table in self.tables if (grid := reported_grid(table, self.figures))]

    def grids(self) -> list[Grid]:
        """Return all of it as words in rows and columns; raises UsageError when there are no pairs to compare."""
        if not self.pairs:
            return [*(table.grid() for table in self.tables), *self.reported]
        found = [grid for table in self.tables for grid in pair_grids(table)]
        if not found:
            raise UsageError("There are no two rows with per-image correctness under the same seed in one column.")
        return found
