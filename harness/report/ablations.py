"""The ablation table: a method's rows, found among records by their settings, beside what its paper reports."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from harness.record.record import Record
from harness.report.measurements import Measurement, measurements
from harness.report.statistics import LEVEL, holm, p_text, paired
from harness.report.text_table import Grid, Word
from methods.contracts import AblationRow, Method


@dataclass(frozen=True)
class Ablation:
    """The finished cells of one ablation, row by row in the method's order; one of the rows is the full method."""

    method: Method
    cells: list[list[Measurement]]

    @property
    def full(self) -> int:
        """The place of the full method among the rows."""
        return next(place for place, row in enumerate(self.method.ablation) if row.full)

    def keys(self) -> set[str]:
        """Return the keys of all its records."""
        return {one.key for found in self.cells for one in found}


def ablations(method: Method, records: Iterable[Record]) -> list[Ablation]:
    """Return the ablations that records hold: for every setting of the full method with further rows, one.

    A record is a row's if its settings are those of the full method with the row's own on top.
    """
    settings: dict[str, dict[str, list[Measurement]]] = {}
    for line in measurements(record for record in records if record.cell.method == method.name):
        bed = json.dumps([line.model, line.bits, line.backend, line.record.config.backend, line.data_sha256])
        settings.setdefault(bed, {}).setdefault(_text(line.record.config.method), []).append(line)
    full = next(row for row in method.ablation if row.full)
    found = []
    for cells in settings.values():
        bases = [json.loads(text) for text in cells if _text({**json.loads(text), **full.settings}) == text]
        rows = [[cells.get(_text({**base, **row.settings}), []) for row in method.ablation] for base in bases]
        found += [Ablation(method, row) for row in rows if sum(map(bool, row)) > 1]
    return [one for one in found if not any(one.keys() < other.keys() for other in found)]


def _text(config: dict[str, Any]) -> str:
    return json.dumps(config, sort_keys=True)


def ablation_grid(ablation: Ablation) -> Grid:
    """Return the table of an ablation.

    Every row has its mean and sd over seeds, its distance from the full method (both over the common seeds, with an
    exact paired test corrected by Holm's rule for all rows), and the paper's figure and distance.
    """
    method, cells = ablation.method, ablation.cells
    full = cells[ablation.full]
    reported = method.ablation[ablation.full].reported
    body = [
        _words(row, found, distance, row.reported - reported)
        for row, found, distance in zip(method.ablation, cells, _distances(cells, full), strict=True)
    ]
    header = ["row", "seeds", "measured", "diff.", "p", "paper", "diff."]
    first = full[0]
    title = f"{first.method} on {first.model} {first.bits}, {first.backend}; {first.data}, n = {first.n}"
    return Grid(title, header, body, _notes(first, method.ablation_setting))


def _notes(full: Measurement, reported: str) -> list[str]:
    notes = [
        "Top-1 in percent (agreement with FP32 where there are no labels), mean ± sd over seeds. Simulated "
        f"quantization. Paper: {reported}.",
        "Diff.: points against the full method, ours on the same images and seeds; bold where p, exact, paired and "
        f"corrected for all rows by Holm's rule, is at most {LEVEL:g}.",
    ]
    return notes + ([f"Settings of all rows: {full.overrides}."] if full.overrides else [])


def _distances(cells: list[list[Measurement]], full: list[Measurement]) -> list[tuple[float, float] | None]:
    """Return (difference in points, corrected p) of every row against the full method; None where untested."""

    def hits(found: list[Measurement]) -> dict[int, Any]:
        return {one.seed: correct for one in found if (correct := one.hits()) is not None}

    tested = [None if found is full else paired(hits(found), hits(full)) for found in cells]
    adjusted = iter(holm([result.p for result in tested if result is not None]))
    return [None if result is None else (result.difference, next(adjusted)) for result in tested]


def _words(
    row: AblationRow, found: list[Measurement], distance: tuple[float, float] | None, reported: float
) -> list[Word]:
    """Return one row of the table; `reported`: the paper's distance from the full method."""
    values = [one.top1 if one.top1 is not None else one.agreement or 0.0 for one in found]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return [
        Word(row.name),
        Word(str(len(values))),
        Word(f"{statistics.fmean(values):.2f}{spread}" if values else "-"),
        Word(f"{distance[0]:+.2f}", strong=distance[1] <= LEVEL) if distance else Word("-"),
        Word(p_text(distance[1]) if distance else "-"),
        Word(f"{row.reported:.2f}"),
        Word("-" if row.full else f"{reported:+.2f}"),
    ]
