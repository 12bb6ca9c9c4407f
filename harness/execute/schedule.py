"""Dispatch: what both executors ask which job is next and tell how jobs end.

It follows the schedule, claims jobs among all commands that share the results folder, passes over cells that another
command has recorded meanwhile, and records the cells that a failure blocks. A claim is held from the moment a job is
handed out until it ends, and waited for without holding anything, so commands cannot wait for one another in a ring.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from harness.execute.claims import Claims
from harness.plan.jobs import CellJob, Job, RunSettings, SynthesisJob
from harness.record.records import is_recorded
from harness.trial.cell_record import fail_job


class Dispatch:
    """Hands out jobs; a context manager that gives claims back. alone: see `Claims`."""

    def __init__(self, jobs: list[Job], settings: RunSettings, listener: Listener, alone: bool) -> None:
        self.settings, self.listener = settings, listener
        self._claims = Claims(settings.results / "cache" / "claims", alone)
        self._schedule = Schedule(jobs, lambda job: self._claims.take(job.key))
        self._running: set[str] = set()

    def __enter__(self) -> Dispatch:
        self._claims.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._claims.__exit__(kind, error, trace)

    @property
    def exhausted(self) -> bool:
        """Whether every job has ended."""
        return self._schedule.exhausted and not self._running

    def next(self) -> Job | None:
        """Hand out the next job, or None when all that is left must wait; raises UsageError as `Claims.take`."""
        while (job := self._schedule.next()) is not None:
            self._running.add(job.key)
            if not (isinstance(job, CellJob) and is_recorded(self.settings.results, job.key)):
                return job
            self.finish(job, None)
        return None

    def again(self, job: Job) -> None:
        """Take back a job that must be run once more; its claim is kept."""
        self._schedule.put_back(job)

    def finish(self, job: Job, error: str | None) -> None:
        """Note that a job has ended, and record the cells that its failure blocks."""
        self._running.discard(job.key)
        self._claims.release(job.key)
        self.listener.finished(job, error)
        for lost in self._schedule.finish(job, failed=error is not None):
            reason = fail_job(lost, self.settings, f"{job.label()} failed: {error}")
            self.listener.finished(lost, reason)


class Listener(Protocol):
    """Who wants to know how the work goes on."""

    def started(self, job: Job) -> None:
        """A job begins."""

    def progressed(self, job: Job, stage: str, done: int, total: int, seen: str) -> None:
        """A stage of a job has got so far; seen: the result so far in words, or nothing."""

    def finished(self, job: Job, error: str | None) -> None:
        """A job has ended; error says why when it failed."""


def needs(job: Job) -> set[str]:
    """Return the keys of the jobs that must be done before this one."""
    if isinstance(job, CellJob):
        return {job.synthesis, job.reference}
    return {job.reference} if isinstance(job, SynthesisJob) else set()


@dataclass
class Schedule:
    """Which job may run next, given what is done; both executors follow it.

    Jobs are handed out in the order they were given, each as soon as what it needs is done and `take` grants it.
    The jobs that need a failed one are blocked.
    """

    jobs: list[Job]
    take: Callable[[Job], bool] = lambda _job: True
    _waiting: dict[str, Job] = field(init=False)
    _missing: set[str] = field(init=False)
    _returned: set[str] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self._waiting = {job.key: job for job in self.jobs}
        self._missing = set(self._waiting)

    def next(self) -> Job | None:
        """Hand out the next job that is ready, or None when all that is left must wait."""
        for job in self._waiting.values():
            if not needs(job) & self._missing and (job.key in self._returned or self.take(job)):
                return self._waiting.pop(job.key)
        return None

    def put_back(self, job: Job) -> None:
        """Let a job that was handed out be the first of those that wait; it needs no second grant."""
        self._returned.add(job.key)
        self._waiting = {job.key: job, **self._waiting}

    @property
    def exhausted(self) -> bool:
        """Whether every job has been handed out or blocked."""
        return not self._waiting

    def finish(self, job: Job, failed: bool) -> list[Job]:
        """Note that a job is done; returns the jobs that its failure blocks for good."""
        if not failed:
            self._missing.discard(job.key)
            return []
        blocked: list[Job] = []
        keys = {job.key}
        while found := [j for j in self._waiting.values() if needs(j) & keys]:
            blocked += found
            keys |= {j.key for j in found}
            for lost in found:
                del self._waiting[lost.key]
        return blocked
