"""Jobs: the pieces of work a plan consists of, and the order they may run in.

Three kinds: the FP32 reference of a model on an image set, a synthesis, and a cell. A synthesis waits for its
model's reference (whose gate stops a run on wrong weights before hours are spent), a cell for both. Labels tell apart
what runs beside one another: a job's own, and the settings it alone has.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from harness.inputs.image_sets import DataSource
from harness.inputs.weights import Weights
from harness.inputs.zoo import ModelEntry
from harness.plan.settings import Overrides
from harness.record.cells import Cell, Identity
from methods.bits import Bits


@dataclass(frozen=True)
class Request:
    """What a command asks for, checked: every combination of the lists is a cell.

    data and calibration give, per task ("digits", "imagenet"), where images come from.
    """

    subjects: list[Subject]
    methods: list[str]
    backends: list[str]
    bits: list[Bits]
    seeds: list[int]
    overrides: Overrides
    data: dict[str, DataSource]
    calibration: dict[str, DataSource]


@dataclass(frozen=True)
class Subject:
    """A model with its weights."""

    entry: ModelEntry
    weights: Weights


@dataclass(frozen=True)
class ReferenceJob:
    """FP32 logits of a model on an image set."""

    key: str
    subject: Subject
    data: DataSource

    def label(self) -> str:
        """Return a short name for progress lines."""
        return f"{self.subject.entry.name} fp32"


@dataclass(frozen=True)
class SynthesisJob:
    """Images of a method for a model and a seed; `passes`: estimated forward+backward image passes."""

    key: str
    subject: Subject
    method: str
    config: Any
    seed: int
    calibration: DataSource | None
    reference: str
    passes: float

    def label(self) -> str:
        """Return a short name for progress lines."""
        return f"{self.subject.entry.name} {self.method} seed {self.seed}"


@dataclass(frozen=True)
class CellJob:
    """A cell with all that is needed to run it; `cached`: whether its synthesis was there when it was planned."""

    key: str
    cell: Cell
    identity: Identity
    subject: Subject
    data: DataSource
    method_config: Any
    backend_config: Any
    synthesis: str
    reference: str
    cached: bool
    passes: float

    def label(self) -> str:
        """Return a short name for progress lines."""
        return self.cell.label()


Job: TypeAlias = ReferenceJob | SynthesisJob | CellJob


@dataclass(frozen=True)
class RunSettings:
    """What all jobs of a run share. device: "cpu" or "cuda"; threads: CPU threads per job; gate: whether an
    FP32 accuracy far below the expected one stops the run; executor, command and commit go into provenance;
    run: names this run, so that a cell can tell whether its synthesis was made before it; plugins: absolute paths of
    plugin files; timeout: most seconds a stage of a job may take; started: when, in ISO form."""

    results: Path
    device: str
    threads: int
    gate: bool
    executor: str
    command: str
    commit: str | None
    run: str
    plugins: tuple[str, ...] = ()
    timeout: float | None = None
    started: str = ""


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
