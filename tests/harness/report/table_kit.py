"""What tests of tables share: cells as text, marks of the best, records of several seeds."""

from __future__ import annotations

from typing import Any

from harness_kit import make_record

from harness.record.record import Record
from harness.report.tables import Table


def texts(table: Table) -> dict[str, list[str | None]]:
    return {label: [value.text() if value else None for value in values] for label, values in table.rows}


def best(table: Table) -> dict[str, list[bool | None]]:
    return {label: [value.best if value else None for value in values] for label, values in table.rows}


def seeds(method: str, figures: list[float], **fields: Any) -> list[Record]:
    return [
        make_record(f"{method}-{fields.get('bits', '')}-{seed}", method=method, seed=seed, top1=top1, **fields)
        for seed, top1 in enumerate(figures)
    ]
