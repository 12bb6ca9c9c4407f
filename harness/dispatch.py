"""Dispatch: what both executors ask which job is next and tell how jobs end.

It follows the schedule, claims jobs among all commands that share the results folder, passes over cells that another
command has recorded meanwhile, and records the cells that a failure blocks. A claim is held from the moment a job is
handed out until it ends, and waited for without holding anything, so commands cannot wait for one another in a ring.
"""

from __future__ import annotations

from types import TracebackType

from harness.claims import Claims
from harness.executors import Listener
from harness.plan.jobs import CellJob, Job, RunSettings, Schedule
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
            reason = f"{job.label()} failed: {error}"
            fail_job(lost, self.settings, reason)
            self.listener.finished(lost, reason)
