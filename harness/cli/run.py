"""Run a plan: hand its jobs to the executor and show how it goes."""

from __future__ import annotations

import time
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from harness.plan.jobs import Job, RunSettings
from harness.plan.labels import labels
from harness.plan.plan import Plan
from methods.text import printable

if TYPE_CHECKING:
    from harness.execute.resources import Resources


_EXECUTORS = {"ray": "ray_tune", "local": "local"}


def run_plan(plan: Plan, settings: RunSettings, resources: Resources, console: Console) -> dict[str, str]:
    """Run the plan's jobs and return the errors of those that failed, by label; nothing left to do starts nothing.

    Only the executor asked for is imported, so that `local` works where Ray is not installed.
    """
    for problem in plan.damaged:
        console.print(
            printable(f"Not counted, measured again: {problem}."), markup=False, highlight=False, soft_wrap=True
        )
    if not plan.jobs:
        return {}
    executor = import_module(f"harness.execute.{_EXECUTORS[settings.executor]}")
    with ProgressTable(plan.jobs, console) as table:
        executor.execute(plan.jobs, settings, table, resources)
    for label, error in table.failures.items():
        console.print(printable(f"Failed: {label}: {error}"), markup=False, style="red")
    return table.failures


class ProgressTable:
    """A listener that draws a live table; use it as a context manager around a run."""

    def __init__(self, jobs: list[Job], console: Console) -> None:
        self.console = console
        self.failures: dict[str, str] = {}
        self._labels = labels(jobs)
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
            self._tasks[job.key] = self._progress.add_task(
                escape(printable(self._labels[job.key])), total=None, stage="starting"
            )

    def progressed(self, job: Job, stage: str, done: int, total: int, seen: str) -> None:
        """Move a job's bar, and show the result so far."""
        self._progress.update(self._tasks[job.key], stage=f"{stage} {seen}".strip(), completed=done, total=total)

    def finished(self, job: Job, error: str | None) -> None:
        """Take a job's line away; keep its error."""
        if job.key in self._tasks:
            self._progress.remove_task(self._tasks.pop(job.key))
        self._done += 1
        self._progress.update(self._all, completed=self._done)
        if error is not None:
            self.failures[self._labels[job.key]] = error
        if not self.console.is_terminal or error is not None:
            outcome = "done" if error is None else f"failed: {error}"
            seconds = time.monotonic() - self._start
            self.console.print(
                printable(f"[{self._done}/{self._total}] {seconds:6.0f} s  {self._labels[job.key]}: {outcome}"),
                markup=False,
                highlight=False,
            )
