"""The local executor: all jobs one after the other in this process; needs no Ray.

A stage's timeout interrupts Python code, not a call into a library that never returns.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import FrameType, TracebackType
from typing import NoReturn

from harness.execute.resources import Resources, demand
from harness.execute.schedule import Dispatch, Listener
from harness.plan.jobs import Job, RunSettings
from harness.trial.cell_record import fail_job
from harness.trial.reference import StageReport
from harness.trial.trial import StageTimeout, run_job

_WAIT_SECONDS = 0.1
_LONGEST_TIMER = 1e8  # three years; timers of the system overflow beyond some such number


def execute(
    jobs: list[Job],
    settings: RunSettings,
    listener: Listener,
    resources: Resources,
    run: Callable[[Job, RunSettings, StageReport], str | None] = run_job,
) -> None:
    """Run the jobs, all resources being this process' own; raises UsageError when one finds that the run must stop."""
    with Dispatch(jobs, settings, listener, alone=True) as dispatch:
        while not dispatch.exhausted:
            job = dispatch.next()
            if job is None:  # what is left waits for another command
                time.sleep(_WAIT_SECONDS)
                continue
            listener.started(job)
            here = replace(settings, threads=demand(job, resources).cpus)
            try:
                with _Alarm(settings.timeout, partial(listener.progressed, job)) as report:
                    error = run(job, here, report)
            except StageTimeout as late:  # it rang after the job's own work, while its end was being noted
                error = fail_job(job, here, str(late))
            dispatch.finish(job, error)


class _Alarm:
    """Passes reports on, and raises StageTimeout when a stage takes too long.

    In the main thread an alarm of the system does so; elsewhere the next report.
    """

    def __init__(self, seconds: float | None, report: StageReport) -> None:
        self.seconds, self.report, self.stage, self.since = seconds, report, "", 0.0
        self.rings = seconds is not None and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> StageReport:
        if self.rings:
            signal.signal(signal.SIGALRM, self._ring)
        return self._heard

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.rings:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _heard(self, stage: str, done: int, total: int, seen: str = "") -> None:
        self.report(stage, done, total, seen)
        if self.seconds is None:
            return
        if stage != self.stage:
            self.stage, self.since = stage, time.monotonic()
            if self.rings:
                signal.setitimer(signal.ITIMER_REAL, min(self.seconds, _LONGEST_TIMER))
        elif time.monotonic() - self.since > self.seconds:
            raise StageTimeout(stage, self.seconds)

    def _ring(self, _number: int, _frame: FrameType | None) -> NoReturn:
        raise StageTimeout(self.stage, self.seconds or 0.0)
