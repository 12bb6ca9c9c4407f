"""Run a plan: hand its jobs to the executor and show how it goes."""

from __future__ import annotations

import time
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live

from harness.cli.options import Running
from harness.cli.run_files import told_to_others
from harness.cli.trackers import Tracker
from harness.cli.view import Drawn, counts, row_line, times
from harness.cli.watch import Watch
from harness.execute.forecast import START_SECONDS, expectations
from harness.plan.jobs import CellJob, Job, RunSettings
from harness.plan.plan import Plan
from harness.record.cache import Cache
from methods.text import printable, words

if TYPE_CHECKING:
    from harness.execute.resources import Resources


_EXECUTORS = {"ray": "ray_tune", "local": "local"}
_DRAWN_PER_SECOND = 4
_SILENT_SECONDS = 60.0


def run_plan(
    plan: Plan,
    settings: RunSettings,
    resources: Resources,
    running: Running,
    console: Console,
) -> dict[str, str]:
    """Run the plan's jobs and return the errors of those that failed, by label; nothing left to do starts nothing.

    running: says whether to tell of failures alone, or more than usual. Only the executor asked for is imported, so
    that `local` works where Ray is not installed.
    """
    for problem in plan.damaged:
        _say(console, f"Not counted, measured again: {problem}.")
    if not running.quiet:
        _say(console, _reused(plan, settings.results))
    if not plan.jobs:
        return {}
    expected, start = expectations(plan.jobs, settings, resources), START_SECONDS[settings.executor]
    watch = Watch(plan.jobs, settings.results, expected, start=start)
    view = ProgressView(watch, console, running.quiet, running.verbose)
    tracker = Tracker(view, plan.jobs, settings, words(running.log))
    with told_to_others(settings, watch.snapshot), view, tracker:
        executor = import_module(f"harness.execute.{_EXECUTORS[settings.executor]}")
        executor.execute(plan.jobs, settings, tracker if running.log else view, resources)
    for problem in tracker.problems:
        _say(console, problem, "red")
    for label, error in watch.failures.items():
        _say(console, f"Failed: {label}: {error}", "red")
    return watch.failures


def _reused(plan: Plan, results: Path) -> str:
    """Return how much of a plan is to be done, and how much is there already."""
    made = sum(key in Cache.of(results, "synthesis") for key in plan.images)
    there = f"{len(plan.recorded)} of {len(plan.cells)} cells are recorded"
    if made:
        there += f" and the images of {made} of {len(plan.images)} syntheses are there"
    return f"{there}; nothing is left to do." if not plan.jobs else f"{there}: {len(plan.jobs)} jobs to do."


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(printable(text), markup=False, highlight=False, style=style, soft_wrap=not console.is_terminal)


class ProgressView:
    """A listener that shows what a watch sees: a live table on a terminal, lines where there is none or a dumb one.

    quiet: of failures alone; verbose: lines beside the table, too. Use it as a context manager around a run.
    """

    def __init__(self, watch: Watch, console: Console, quiet: bool = False, verbose: bool = False) -> None:
        self.watch, self.console, self._quiet, self._verbose = watch, console, quiet, verbose
        self._spoke = time.monotonic()
        self._live = None
        if console.is_terminal and not console.is_dumb_terminal and not quiet:
            drawn = Drawn(watch.snapshot)
            self._live = Live(drawn, console=console, refresh_per_second=_DRAWN_PER_SECOND, transient=True)

    def __enter__(self) -> ProgressView:
        if self._live:
            self._live.start(refresh=True)
        elif not self._quiet:
            now = self.watch.snapshot()
            self._line(f"{now.total} jobs, about {times(now).partition('about ')[2]}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def started(self, job: Job) -> None:
        """Pass on that a job begins."""
        self.watch.started(job)

    def progressed(self, job: Job, stage: str, done: int, total: int, seen: str) -> None:
        """Pass on how far a job is and its result so far; as a line, after a minute in which none was printed."""
        self.watch.progressed(job, stage, done, total, seen)
        if not self._live and not self._quiet and time.monotonic() - self._spoke > _SILENT_SECONDS:
            now = self.watch.snapshot()
            self._line(f"{counts(now)}; {times(now)}; {'; '.join(map(row_line, now.running))}")

    def finished(self, job: Job, error: str | None) -> None:
        """Pass on that a job has ended; print a line where there is no table, or where it failed."""
        self.watch.finished(job, error)
        if error is None and (self._quiet or (self._live and not self._verbose)):
            return
        now = self.watch.snapshot()
        outcome = f"failed: {error}" if error is not None else self._outcome(job)
        self._line(f"[{now.ended}/{now.total}] {times(now)}: {self.watch.labels[job.key]}: {outcome}")

    def _outcome(self, job: Job) -> str:
        return (self.watch.outcome(job) if isinstance(job, CellJob) else None) or "done"

    def _line(self, text: str) -> None:
        self._spoke = time.monotonic()
        _say(self.console, text)
