"""The Ray executor: one Ray Tune experiment whose trials follow the schedule.

A searcher (`ray_trials`) hands Tune the next job that is ready, so a cell's trial starts as soon as its synthesis is
there. Tune places trials on CPUs, GPUs or a cluster; what is done is remembered by records and the cache alone, so
nothing of Tune's own state is kept. Only these two modules import Ray.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeAlias

from harness.execute.ray_session import StopOnFatal, session
from harness.execute.ray_trials import JobSearcher, Relay
from harness.execute.resources import Resources
from harness.execute.schedule import Dispatch, Listener
from harness.inputs import plugins as catalog
from harness.plan.jobs import Job, RunSettings
from harness.trial.reference import StageReport
from harness.trial.trial import run_job
from methods.errors import UsageError

# isort: split
import ray  # after `ray_session`, which sets the environment it reads
from ray import tune

Runner: TypeAlias = Callable[[Job, RunSettings, StageReport], str | None]
_REPORT_SECONDS = 1.0


def execute(
    jobs: list[Job], settings: RunSettings, listener: Listener, resources: Resources, run: Runner = run_job
) -> None:
    """Run the jobs; raises UsageError when one of them finds that the run must stop."""
    if not jobs:
        return
    storage = settings.results.resolve() / "ray"
    try:
        with session(resources), Dispatch(jobs, settings, listener, alone=False) as dispatch:
            searcher = JobSearcher(dispatch, jobs, settings, resources)
            _tuner(jobs, settings, searcher, run).fit()
            unfinished = not dispatch.exhausted
    finally:
        shutil.rmtree(storage / settings.run, ignore_errors=True)
        with suppress(OSError):  # another command's folder is still in it
            storage.rmdir()
    if searcher.fatal is not None:
        raise UsageError(searcher.fatal)
    if unfinished:
        raise UsageError("Ray ended the run before all its jobs had ended; the same command goes on from there.")


def _tuner(jobs: list[Job], settings: RunSettings, searcher: JobSearcher, run: Runner) -> tune.Tuner:
    """Return the experiment; num_samples=-1: the searcher says when it is at its end."""
    for module in catalog.plugin_modules(settings.plugins):
        ray.cloudpickle.register_pickle_by_value(module)  # workers cannot import it by its name
    trainable = tune.with_resources(
        _trainable(jobs, settings, run),
        lambda config: tune.PlacementGroupFactory([{"CPU": config["cpus"], "GPU": config["gpus"]}]),
    )
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(search_alg=searcher, num_samples=-1, reuse_actors=True),
        run_config=tune.RunConfig(
            name=settings.run,
            storage_path=str(settings.results.resolve() / "ray"),
            failure_config=tune.FailureConfig(max_failures=0),
            callbacks=[Relay(searcher)],
            stop=StopOnFatal(searcher),
            verbose=0,
        ),
    )


def _trainable(jobs: list[Job], settings: RunSettings, run: Runner) -> Callable[[dict[str, Any]], None]:
    """Return the function Tune runs in a worker for the job of a trial's config."""

    def trial(config: dict[str, Any]) -> None:
        import torch

        last, current = time.monotonic(), ""

        def report(stage: str, done: int, total: int, seen: str = "") -> None:
            nonlocal last, current
            timed = settings.timeout is not None and stage != current  # the driver must know when a stage began
            if timed or time.monotonic() - last >= _REPORT_SECONDS:
                last, current = time.monotonic(), stage
                about = {"stage": stage, "step": done, "steps": total, "seen": seen}  # "done" is a word of Tune's own
                tune.report(about)

        assigned = bool(ray.get_gpu_ids()) and torch.cuda.is_available()
        here = replace(settings, device=settings.device if assigned else "cpu", threads=config["cpus"])
        try:
            tune.report({"error": run(jobs[config["job"]], here, report)})
        except UsageError as error:
            tune.report({"fatal": str(error)})

    return trial
