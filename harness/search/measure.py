"""Runs a search: measures its samples one after the other here or, one Tune trial per sample, on Ray.

A sample is a few ordinary cells, one per seed, run by the local executor wherever the sample is; under ASHA there are
such cells for every rung. So a rung quantizes again (with factor 2, less than once more per sample on average), on
images from the cache: its records are then those of plain cells, and a killed search loses none. Points that records
hold are gone through first: their cells are not run again, and the searcher is told what they gave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from harness.execute import local
from harness.execute.resources import Resources
from harness.plan.jobs import Job, Request, RunSettings
from harness.plan.plan import Plan, make_plan
from harness.record.record import Record
from harness.record.records import find_records
from harness.search.proposals import Halving, propose
from harness.search.search import Search, figures, find_samples
from harness.search.space import Settings, value_text
from methods.errors import UsageError


@dataclass(frozen=True)
class SearchRun:
    """A search and how to go through it. request: its cells at the defaults; known: points that records hold, in the
    order they were begun; samples: how many in all; kind, seed: of `harness.search.proposals`."""

    search: Search
    request: Request
    settings: RunSettings
    resources: Resources
    known: list[Settings]
    samples: int
    kind: str
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What a point gave on its last rung, of n images: values in the order of the search's metrics, or why there are
    none."""

    point: Settings
    n: int
    values: list[float] | None
    error: str | None = None

    def text(self, metrics: list[str]) -> str:
        """Return the outcome and the point on one line."""
        point = ", ".join(f"{name}={value_text(value)}" for name, value in self.point.items())
        if self.values is None:
            return f"failed: {self.error} ({point})"
        found = ", ".join(f"{name} {value:.4g}" for name, value in zip(metrics, self.values, strict=True))
        return f"{found} on {self.n} images: {point}"


Told: TypeAlias = Callable[[Outcome], None]
"""Called with what each sample gave."""


def run_here(run: SearchRun, told: Told) -> None:
    """Measure sample after sample in this process, stopping bad ones early where the search asks for it."""
    search, halving = run.search, Halving()
    history: list[tuple[Settings, tuple[float, ...] | None]] = []
    while (point := next_point(run, history)) is not None:
        last = Outcome(point, 0, None)
        for last in measure(run, point):
            if last.values and not halving.keep(last.n, search.signed(last.values)[0]):
                break
        history.append((point, search.signed(last.values) if last.values else None))
        told(last)


def next_point(run: SearchRun, history: list[tuple[Settings, tuple[float, ...] | None]]) -> Settings | None:
    """Return the next point: those known, then the searcher's; None when there are samples enough."""
    if len(history) >= run.samples:
        return None
    if len(history) < len(run.known):
        return run.known[len(history)]
    return propose(run.kind, run.search.space, run.search.start, history, run.seed, len(run.search.metrics))


def plan_of(run: SearchRun, point: Settings, n: int) -> Plan:
    """Return the plan of a point's cells on n images."""
    overrides = {owner: dict(table) for owner, table in run.request.overrides.items()}
    for name, value in point.items():
        owner, _, key = name.partition(".")
        overrides.setdefault(owner, {})[key] = value
    data = {task: replace(source, limit=n) for task, source in run.request.data.items()}
    return make_plan([replace(run.request, overrides=overrides, data=data)], run.settings.results)


def measure(run: SearchRun, point: Settings) -> Iterator[Outcome]:
    """Measure a point rung by rung until it fails; raises UsageError when the whole run must stop."""
    for images in run.search.images:
        try:
            plan = plan_of(run, point, images["n"])
        except UsageError as error:  # settings that do not go together fail this point alone
            yield Outcome(point, 0, None, str(error))
            return
        errors = _Errors()
        local.execute(plan.jobs, run.settings, errors, run.resources)
        sample = next(iter(find_samples(run.search, _records(plan, run.settings))), None)
        if sample is None or sample.values is None:
            reason = "; ".join(errors.found) or (sample.error if sample else None)
            yield Outcome(point, 0, None, reason or "it left no record")
            return
        yield Outcome(point, sample.n, figures(run.search, sample))


def _records(plan: Plan, settings: RunSettings) -> list[Record]:
    return find_records(settings.results, [job.key for job in plan.cells])


class _Errors:
    """A listener that keeps the errors alone."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def started(self, job: Job) -> None:
        """Hear that a job begins."""

    def progressed(self, job: Job, stage: str, done: int, total: int, seen: str) -> None:
        """Hear how far a job is."""

    def finished(self, job: Job, error: str | None) -> None:
        """Keep why a job failed."""
        if error is not None:
            self.found.append(error)
