"""The Ray executor: one Ray Tune experiment whose trials follow the schedule.

A searcher (`ray_trials`) hands Tune the next job that is ready, so a cell's trial starts as soon as its synthesis is
there. Tune places trials on CPUs, GPUs or a cluster; what is done is remembered by records and the cache alone, so
nothing of Tune's own state is kept. Only these two modules import Ray.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

from harness.execute.ray_session import Trainable, assigned_device, fit, session, storage
from harness.execute.ray_trials import JobSearcher, Relay
from harness.execute.resources import Resources
from harness.execute.schedule import Dispatch, Listener
from harness.plan.jobs import Job, RunSettings
from harness.trial.reference import StageReport
from harness.trial.trial import run_job
from methods.errors import UsageError

# isort: split
from ray import tune  # after `ray_session`, which sets the environment it reads

Runner: TypeAlias = Callable[[Job, RunSettings, StageReport], str | None]
_REPORT_SECONDS = 1.0


def execute(
    jobs: list[Job], settings: RunSettings, listener: Listener, resources: Resources, run: Runner = run_job
) -> None:
    """Run the jobs; raises UsageError when one of them finds that the run must stop."""
    if not jobs:
        return
    with (
        storage(settings.results, settings.run) as folder,
        session(resources),
        Dispatch(jobs, settings, listener, alone=False) as dispatch,
    ):
        searcher = JobSearcher(dispatch, jobs, settings, resources)
        trainable = tune.with_resources(
            _trainable(jobs, settings, run),
            lambda config: tune.PlacementGroupFactory([{"CPU": config["cpus"], "GPU": config["gpus"]}]),
        )
        # num_samples=-1: the searcher says when it is at its end, and itself gives a job another worker
        tuned = tune.TuneConfig(search_alg=searcher, num_samples=-1, reuse_actors=True)
        fit(trainable, tuned, folder, settings.plugins, Relay(searcher), searcher)
        unfinished = not dispatch.exhausted
    if searcher.fatal is not None:
        raise UsageError(searcher.fatal)
    if unfinished:
        raise UsageError("Ray ended the run before all its jobs had ended; the same command goes on from there.")


def _trainable(jobs: list[Job], settings: RunSettings, run: Runner) -> Trainable:
    """Return the function Tune runs in a worker for the job of a trial's config."""

    def trial(config: dict[str, Any]) -> None:
        last, current = time.monotonic(), ""

        def report(stage: str, done: int, total: int, seen: str = "") -> None:
            nonlocal last, current
            timed = settings.timeout is not None and stage != current  # the driver must know when a stage began
            if timed or time.monotonic() - last >= _REPORT_SECONDS:
                last, current = time.monotonic(), stage
                about = {"stage": stage, "step": done, "steps": total, "seen": seen}  # "done" is a word of Tune's own
                tune.report(about)

        here = replace(settings, device=assigned_device(settings), threads=config["cpus"])
        try:
            tune.report({"error": run(jobs[config["job"]], here, report)})
        except UsageError as error:
            tune.report({"fatal": str(error)})

    return trial
