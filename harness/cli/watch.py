"""The watch: a listener that follows a run and says at any moment how it stands."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from harness.cli.run_files import Row, Snapshot
from harness.execute.forecast import Expected, Forecast
from harness.plan.jobs import CellJob, Job, labels
from harness.record.record import Finished
from harness.record.records import find_record

_NEWEST = 3


class Watch:
    """Follows the jobs of a run. results: where to read what cells gave; expected: of the jobs, by key; start: seconds
    until a first job begins its work."""

    def __init__(
        self,
        jobs: list[Job],
        results: Path,
        expected: dict[str, Expected],
        clock: Callable[[], float] = time.monotonic,
        start: float = 0.0,
    ) -> None:
        self.failures: dict[str, str] = {}
        self.labels = labels(jobs)
        self._results, self._clock, self._began = results, clock, clock()
        self._forecast = Forecast(jobs, expected, clock, start)
        self._running: dict[str, tuple[Job, str, int, int]] = {}
        self._total, self._ended = len(jobs), 0
        self._newest: list[str] = []
        self._lock = threading.Lock()

    def started(self, job: Job) -> None:
        """Note that a job begins, or begins again."""
        with self._lock:
            self._running[job.key] = (job, "starting", 0, 0)
            self._forecast.began(job)

    def progressed(self, job: Job, stage: str, done: int, total: int, seen: str) -> None:
        """Note how far a job has come, and its result so far."""
        with self._lock:
            self._running[job.key] = (job, f"{stage} {seen}".strip(), done, total)
            self._forecast.moved(job, f"{stage} {seen}".strip(), done, total)

    def finished(self, job: Job, error: str | None) -> None:
        """Note that a job has ended, and what it gave."""
        found = self.outcome(job) if error is None and isinstance(job, CellJob) else None
        with self._lock:
            self._running.pop(job.key, None)
            self._forecast.ended(job)
            self._ended += 1
            if error is not None:
                self.failures[self.labels[job.key]] = error
            elif found:
                self._newest = [*self._newest, f"{self.labels[job.key]}: {found}"][-_NEWEST:]

    def outcome(self, job: Job) -> str | None:
        """Return what the record of a job's cell holds, None when there is none."""
        record = find_record(self._results, job.key)
        if not isinstance(record, Finished):
            return None
        found = record.metrics
        if found.cosine is not None:
            return f"cosine {found.cosine:.4f}"
        if found.top1 is None:
            return f"agreement {found.agreement:.2f} %"
        return f"top-1 {found.top1:.2f} ± {found.stderr or 0.0:.2f} %"

    def snapshot(self) -> Snapshot:
        """Return how the run stands now."""
        with self._lock:
            rows = [
                Row(self.labels[key], stage, step, steps, self._forecast.left_of(job))
                for key, (job, stage, step, steps) in self._running.items()
            ]
            passed = self._clock() - self._began
            return Snapshot(
                self._total, self._ended, len(self.failures), passed, self._forecast.left(), rows, self._newest
            )
