"""Every pair of rows of a leaderboard, compared on the same images: `python -m harness.leaderboard --pairs`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, groupby

from harness.report.statistics import LEVEL, Paired, holm, p_text, paired
from harness.report.tables import Table, hits_by_seed
from harness.report.text_table import Grid, Word

_HEADER = ["A", "B", "A - B", "only A", "only B", "p", "p (Holm)", "by seed"]
_NOTES = [
    "A - B: points of accuracy, mean over the seeds both have, and by seed in their order. Only A: images (times "
    "seeds) that A got right and B wrong.",
    "p: McNemar's exact test, two-sided, the seeds of an image taken together. Bold where p, corrected by Holm's rule "
    f"for all pairs of the column, is at most {LEVEL:g}. It compares the models measured; other seeds may differ.",
]


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
        Grid(f"{column} - {table.title}: pairs", _HEADER, [_row(pair) for pair in found], _NOTES, labels=2)
        for column, found in groupby(pairs(table), key=lambda pair: pair.column)
    ]


def _row(pair: Pair) -> list[Word]:
    result, strong = pair.result, pair.p_holm <= LEVEL
    seeds = ", ".join(f"{gap:+.2f}" for gap in result.by_seed.values())
    figures = [str(result.only_a), str(result.only_b), p_text(result.p), p_text(pair.p_holm), seeds]
    return [Word(pair.a), Word(pair.b), Word(f"{result.difference:+.2f}", strong), *map(Word, figures)]
