"""Names of jobs that tell apart what runs beside one another: a job's own label, and the settings it alone has."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from harness.plan.jobs import CellJob, Job, SynthesisJob


def differing(tables: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return for each table of settings, as text, what not all of them share; a setting a table lacks is left out."""
    tables = list(tables)
    counts = Counter((name, repr(value)) for table in tables for name, value in table.items())
    return [
        ", ".join(
            f"{name}={setting_text(value)}" for name, value in table.items() if counts[name, repr(value)] < len(tables)
        )
        for table in tables
    ]


def setting_text(value: Any) -> str:
    """Return a setting's value as `--set` takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def labels(jobs: Iterable[Job]) -> dict[str, str]:
    """Return {key: label} of jobs; where several have the same, what differs in their settings stands behind it."""
    alike: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        alike[job.label()].append(job)
    found = {}
    for label, group in alike.items():
        for job, words in zip(group, differing(map(_settings, group)), strict=True):
            found[job.key] = f"{label} ({words})" if words else label
    return found


def _settings(job: Job) -> dict[str, Any]:
    if isinstance(job, CellJob):
        return job.cell.overrides
    return asdict(job.config) if isinstance(job, SynthesisJob) else {}
