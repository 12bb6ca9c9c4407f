"""What changed between two sets of results: rows both have, compared on the same images and seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.report.measurements import Measurement
    from harness.report.statistics import Paired
    from harness.report.text_table import Grid


# What must be the same for two rows to be one thing measured twice; versions and commits are what may change.
SAME = ("data", "n", "data_sha256", "model", "bits", "weights_sha256", "method", "backend", "overrides", "calibration")


@dataclass(frozen=True)
class Change:
    """A row of both results: what it is, its test (B - A), p corrected for all rows, and the verdict."""

    name: str
    result: Paired
    p_holm: float
    verdict: str


VERDICTS = ("improved", "regressed", "worse within --fail-under", "unchanged")
Rows = dict[tuple[Any, ...], list["Measurement"]]


def rows_of(name: str) -> Rows:
    """Return the measurements of a folder or revision by what they measure."""
    from harness.record.folders import results_of
    from harness.record.studies import load_studies, merged
    from harness.report.measurements import measurements

    with results_of(name) as folders:
        lines = measurements(merged(load_studies(folders, name)))
    rows: Rows = {}
    for line in lines:
        rows.setdefault(tuple(getattr(line, field) for field in SAME), []).append(line)
    return {key: _newest(found) for key, found in rows.items()}


def _newest(lines: list[Measurement]) -> list[Measurement]:
    """Keep the measurements of the newest version of method and backend; older ones may still lie about."""
    versions = [tuple((len(word), word) for word in (line.method_version, line.backend_version)) for line in lines]
    return [line for line, version in zip(lines, versions, strict=True) if version == max(versions)]


def only_in_one(names: tuple[str, str], before: Rows, after: Rows) -> list[tuple[str, set[tuple[Any, ...]]]]:
    """Return, for each of the two, its name and the rows the other lacks."""
    return list(zip(names, (before.keys() - after.keys(), after.keys() - before.keys()), strict=True))


def changes(before: Rows, after: Rows, allowed: float) -> list[Change]:
    """Return the rows of both results, compared; those without per-image correctness or common seeds are left out."""
    from harness.report.statistics import holm, paired
    from harness.report.tables import hits_by_seed

    shared = sorted(before.keys() & after.keys(), key=str)
    tested = [(key, paired(hits_by_seed(after[key]), hits_by_seed(before[key]))) for key in shared]
    known = [(key, result) for key, result in tested if result is not None]
    adjusted = holm([result.p for _, result in known])
    return [
        Change(_name(key), result, p, _verdict(result.difference, p, allowed))
        for (key, result), p in zip(known, adjusted, strict=True)
    ]


def _name(key: tuple[Any, ...]) -> str:
    values = dict(zip(SAME, key, strict=True))
    settings = f" ({values['overrides']})" if values["overrides"] else ""
    return f"{values['data']}, {values['model']} {values['bits']}, {values['method']} + {values['backend']}{settings}"


def _verdict(difference: float, p: float, allowed: float) -> str:
    from harness.report.statistics import LEVEL

    if p > LEVEL or difference == 0:
        return "unchanged"
    if difference > 0:
        return "improved"
    return "regressed" if -difference > allowed else "worse within --fail-under"


def changes_grid(found: list[Change], names: tuple[str, str]) -> Grid:
    """Return the changes as a table."""
    from harness.report.statistics import LEVEL, p_text
    from harness.report.text_table import Grid, Word

    body = [
        [
            Word(change.name),
            Word(f"{change.result.difference:+.2f}", change.verdict in ("improved", "regressed")),
            *map(Word, (str(change.result.only_b), str(change.result.only_a), p_text(change.p_holm), change.verdict)),
        ]
        for change in found
    ]
    notes = [
        f"McNemar's exact test on the same images and seeds, two-sided, level {100 * LEVEL:g} %, p corrected by "
        "Holm's rule for all rows. Lost and gained: images (times seeds) that only A, or only B, got right."
    ]
    header = ["row", "B - A", "lost", "gained", "p (Holm)", ""]
    return Grid(f"{names[1]} (B) against {names[0]} (A)", header, body, notes)
