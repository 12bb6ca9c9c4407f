"""The local executor: all jobs one after the other in this process; needs no Ray."""

from __future__ import annotations

from functools import partial

from harness.executors import Listener, Resources
from harness.jobs import Job, RunSettings, Schedule
from harness.trial import fail_job, run_job


def execute(jobs: list[Job], settings: RunSettings, listener: Listener, resources: Resources) -> None:
    """Run the jobs, all resources being this process' own; raises UsageError when one finds that the run must stop."""
    schedule = Schedule(jobs)
    while (job := schedule.next()) is not None:
        listener.started(job)
        error = run_job(job, settings, partial(listener.progressed, job))
        listener.finished(job, error)
        for lost in schedule.finish(job, failed=error is not None):
            reason = f"{job.label()} failed: {error}"
            fail_job(lost, settings, reason)
            listener.finished(lost, reason)
