"""What the terminal shows while jobs run: one live table with a line per running job, and the whole on top.

Without a terminal (logs, CI) every finished job prints one line instead.
"""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from harness.plan.jobs import Job


class ProgressTable:
    """A listener that draws a live table; use it as a context manager around a run."""

    def __init__(self, jobs: list[Job], console: Console) -> None:
        self.console = console
        self.failures: dict[str, str] = {}
        self._start = time.monotonic()
        self._total, self._done = len(jobs), 0
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            TextColumn("[cyan]{task.fields[stage]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._all = self._progress.add_task("[bold]all jobs", total=len(jobs), stage="")

    def __enter__(self) -> ProgressTable:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def started(self, job: Job) -> None:
        """Add a line for a job (a restarted job keeps its line)."""
        if job.key not in self._tasks:
            self._tasks[job.key] = self._progress.add_task(job.label(), total=None, stage="starting")

    def progressed(self, job: Job, stage: str, done: int, total: int) -> None:
        """Move a job's bar."""
        self._progress.update(self._tasks[job.key], stage=stage, completed=done, total=total)

    def finished(self, job: Job, error: str | None) -> None:
        """Take a job's line away; keep its error."""
        if job.key in self._tasks:
            self._progress.remove_task(self._tasks.pop(job.key))
        self._done += 1
        self._progress.update(self._all, completed=self._done)
        if error is not None:
            self.failures[job.label()] = error
        if not self.console.is_terminal or error is not None:
            outcome = "done" if error is None else f"failed: {error}"
            seconds = time.monotonic() - self._start
            self.console.print(
                f"[{self._done}/{self._total}] {seconds:6.0f} s  {job.label()}: {outcome}",
                markup=False,
                highlight=False,
            )
