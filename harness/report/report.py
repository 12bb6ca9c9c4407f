"""The report: all that a leaderboard says, made from records once and handed to whichever format writes it.

Kinds of studies never share a table. Asked of everything there is, it shows of every model and image set one
comparison of few rows, and says what else there is; asked of folders, all that is in them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations, groupby
from pathlib import Path

from harness.record.studies import KINDS, Study, merged
from harness.report.comparisons import MOST_ROWS, Comparison, comparisons, places
from harness.report.exports import exports_grid
from harness.report.layout import Layout
from harness.report.measurements import Measurement, measurements
from harness.report.reported import Figure, reported_grid
from harness.report.statistics import LEVEL, Paired, holm, p_text, paired
from harness.report.tables import Table, hits_by_seed, leaderboards
from harness.report.text_table import Grid, Word
from methods.errors import UsageError

_PAIRS_HEADER = ["A", "B", "A - B", "only A", "only B", "p", "p (Holm)", "by seed"]
_PAIRS_NOTES = [
    "A - B: points of accuracy, mean over the seeds both have, and by seed in their order. Only A: images (times "
    "seeds) that A got right and B wrong.",
    "p: McNemar's exact test, two-sided, the seeds of an image taken together. Bold where p, corrected by Holm's rule "
    f"for all pairs of the column, is at most {LEVEL:g}. It compares the models measured; other seeds may differ.",
]


@dataclass(frozen=True)
class Report:
    """What every format is given."""

    studies: Sequence[Study]
    # What tables show.
    layout: Layout = field(default_factory=Layout)
    # What papers report, to stand beside what was measured.
    figures: Sequence[Figure] = ()
    # Whether all rows are shown, or the comparisons alone.
    every: bool = True
    # Whether every pair of rows is compared, instead of the rows shown.
    pairs: bool = False
    # Whether tables have all their footnotes, or two.
    verbose: bool = False

    @property
    def stem(self) -> str:
        """What a file of it is called, without its ending."""
        return "pairs" if self.pairs else "leaderboard"

    @property
    def folders(self) -> list[Path]:
        """The results folders; pictures lie there."""
        return [study.folder for study in self.studies]

    @cached_property
    def lines(self) -> list[Measurement]:
        """All measurements that meet the layout's conditions."""
        return self.layout.chosen(measurements(merged(self.studies)))

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """The comparisons of the studies of that kind, ImageNet first."""
        return comparisons(self.studies, self.layout.metric, self.layout.filters)

    @cached_property
    def tables(self) -> list[Table]:
        """The tables that are shown: a few rows of the first comparison of each place, or of each kind all rows."""
        if not self.every and self.comparisons:
            return [self.short(found[0]) for found in places(self.comparisons)]
        shown = [study for study in self.studies if study.records]
        by_kind = {kind: [study for study in shown if study.kind == kind] for kind in KINDS}
        kinds = {kind: studies for kind, studies in by_kind.items() if studies}
        tables = []
        for kind, studies in kinds.items():
            kept = {line.key for line in self.lines}
            records = [record for record in merged(studies) if record.key in kept]
            found = leaderboards(records, self.layout) if records else []
            tables += found if len(kinds) == 1 else [replace(table, title=f"{kind}: {table.title}") for table in found]
        return tables

    @staticmethod
    def short(comparison: Comparison) -> Table:
        """Return a comparison's table, its best rows alone where it has many; FP32 is no row."""
        table = comparison.table
        most = MOST_ROWS + sum(label == "FP32" for label, _ in table.rows)
        left = len(table.rows) - most
        if left <= 0:
            return table
        more = f"{left} more rows are not shown; --all shows every row."
        return replace(table, rows=table.rows[:most], kept=table.kept[:most], notes=[*table.notes, more])

    @cached_property
    def reported(self) -> list[Grid]:
        """What papers report for rows of each table that has such."""
        return [grid for table in self.tables if (grid := reported_grid(table, self.figures))]

    def grids(self) -> list[Grid]:
        """Return all of it as words in rows and columns; raises UsageError when there are no pairs to compare."""
        if not self.pairs:
            tables = [table.grid(self.verbose) for table in self.tables]
            exports = exports_grid(self.lines)
            return [*tables, *filter(None, [exports]), *self.reported] if self.every else [*tables, self.elsewhere()]
        found = [grid for table in self.tables for grid in pair_grids(table)]
        if not found:
            raise UsageError("There are no two rows with per-image correctness under the same seed in one column.")
        return found

    def elsewhere(self) -> Grid:
        """Return where all rows are, study by study."""
        counts = Counter(study.kind for study in self.studies)
        studies = sorted(self.studies, key=lambda study: (KINDS.index(study.kind), str(study.folder)))
        body = [
            [Word(study.kind), Word(study.title), Word(study.folder.as_posix()), Word(str(len(study.records)))]
            for study in studies
        ]
        told = ", ".join(f"{count} of kind {kind}" for kind, count in counts.items())
        notes = [f"{len(self.studies)} studies, {told}. All rows of one: python -m harness.leaderboard FOLDER"]
        notes += ["All rows of all: --all. As a page with charts: --format html --out FOLDER"]
        return Grid("All that was measured", ["kind", "study", "folder", "records"], body, notes, labels=3)


@dataclass(frozen=True)
class Pair:
    """Two rows of one column; `p_holm` is corrected for all pairs of the column."""

    column: str
    a: str
    b: str
    result: Paired
    p_holm: float


def pairs(table: Table) -> list[Pair]:
    """Return all pairs of rows that share seeds and have per-image correctness, column by column."""
    found = []
    for place, column in enumerate(table.columns):
        rows = [(label, values[place]) for label, values in table.rows]
        hits = [(label, hits_by_seed(value.lines)) for label, value in rows if value and value.lines]
        results = [(a, b, paired(left, right)) for (a, left), (b, right) in combinations(hits, 2)]
        tested = [(a, b, result) for a, b, result in results if result is not None]
        adjusted = holm([result.p for _, _, result in tested])
        found += [Pair(column, *pair, p) for pair, p in zip(tested, adjusted, strict=True)]
    return found


def pair_grids(table: Table) -> list[Grid]:
    """Return the pairs of each column of a leaderboard as a table, significant differences in bold."""
    return [
        Grid(
            f"{column} - {table.title}: pairs",
            _PAIRS_HEADER,
            [_pair_row(pair) for pair in found],
            _PAIRS_NOTES,
            labels=2,
        )
        for column, found in groupby(pairs(table), key=lambda pair: pair.column)
    ]


def _pair_row(pair: Pair) -> list[Word]:
    result, strong = pair.result, pair.p_holm <= LEVEL
    seeds = ", ".join(f"{gap:+.2f}" for gap in result.by_seed.values())
    figures = [str(result.only_a), str(result.only_b), p_text(result.p), p_text(pair.p_holm), seeds]
    return [Word(pair.a), Word(pair.b), Word(f"{result.difference:+.2f}", strong), *map(Word, figures)]
