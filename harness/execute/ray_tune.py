"""The Ray executor: one Ray Tune experiment whose trials follow the schedule.

A searcher hands Tune the next job that is ready, so a cell's trial starts as soon as its synthesis is there. Tune
places trials on CPUs, GPUs or a cluster; what is done is remembered by records and the cache alone, so nothing of
Tune's own state is kept.

A job whose worker dies is given to another one once. One that runs out of memory on a part of a GPU is given a whole
one. One whose stage takes longer than the timeout loses its worker: a worker that hangs cannot be asked to stop.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from harness.execute.ray_session import Trainable, Unsaved, assigned_device, fit, session, storage
from harness.execute.resources import Resources, demand
from harness.execute.schedule import Dispatch, Listener
from harness.plan.jobs import Job, RunSettings
from harness.trial.cell_record import fail_job
from harness.trial.reference import StageReport
from harness.trial.trial import OUT_OF_MEMORY, StageTimeout, run_job
from methods.errors import UsageError

# isort: split
import ray  # after `ray_session`, which sets the environment it reads
from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.search import Searcher

Runner: TypeAlias = Callable[[Job, RunSettings, StageReport], str | None]
_REPORT_SECONDS = 1.0
_DIED = "the worker process died"
_ATTEMPTS = 2
_START = "start"
_START_SECONDS = 600.0  # a worker's imports are no stage's fault


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


@dataclass
class _Trial:
    """A job in a trial, its share of GPUs, the stage it is in and since when, and why it was stopped if it was."""

    job: Job
    gpus: float
    stage: str = _START
    since: float | None = None
    stopped: str | None = None


class JobSearcher(Unsaved, Searcher):  # type: ignore[misc]
    """Hands Tune the jobs of a dispatch as configs {"job": index, "cpus", "gpus"}."""

    def __init__(self, dispatch: Dispatch, jobs: list[Job], settings: RunSettings, resources: Resources) -> None:
        super().__init__()
        self.dispatch, self.settings, self.resources = dispatch, settings, resources
        self.running: dict[str, _Trial] = {}
        self.fatal: str | None = None
        self._index = {job.key: number for number, job in enumerate(jobs)}
        self._deaths: Counter[str] = Counter()
        self._whole: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next ready job, FINISHED when all have ended, None when the rest must wait."""
        try:
            job = None if self.fatal else self.dispatch.next()
        except UsageError as error:
            self.fatal, job = str(error), None
        if job is None:
            return Searcher.FINISHED if self.fatal or self.dispatch.exhausted else None
        given = demand(job, self.resources)
        gpus = 1.0 if job.key in self._whole else given.gpus
        self.running[trial_id] = _Trial(job, gpus)
        return {"job": self._index[job.key], "cpus": given.cpus, "gpus": gpus}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Note the end of a job, or that it must be run again."""
        trial = self.running.pop(trial_id)
        if self.fatal:
            return
        failure = (trial.stopped or _DIED) if error else (result or {}).get("error")
        if self._again(trial, failure):
            self.dispatch.again(trial.job)
            return
        if error:
            failure = fail_job(trial.job, self.settings, str(failure))
        self.dispatch.finish(trial.job, failure)

    def _again(self, trial: _Trial, failure: str | None) -> bool:
        """Whether a job that failed gets another worker, or a whole GPU."""
        key = trial.job.key
        if failure == _DIED:
            self._deaths[key] += 1
            return self._deaths[key] < _ATTEMPTS
        if failure and failure.startswith(OUT_OF_MEMORY) and 0 < trial.gpus < 1:
            self._whole.add(key)
            return True
        return False


class Relay(Unsaved, TrialProgressCallback):  # type: ignore[misc]
    """Passes the trials' progress on to the listener, in place of Tune's own printing, and stops those that hang."""

    def __init__(self, searcher: JobSearcher) -> None:
        super().__init__()
        self.searcher = searcher
        self.listener = searcher.dispatch.listener

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Kill the workers of the trials whose stage takes longer than the timeout."""
        timeout, now = self.searcher.settings.timeout, time.monotonic()
        if timeout is None:
            return
        for trial in trials:
            mine = self.searcher.running.get(trial.trial_id)
            if mine is None or mine.stopped or mine.since is None:
                continue
            limit = max(timeout, _START_SECONDS) if mine.stage == _START else timeout
            if now - mine.since > limit:
                mine.stopped = str(StageTimeout(mine.stage, limit))
                ray.kill(trial.temporary_state.ray_actor)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tell that a job has begun."""
        mine = self.searcher.running[trial.trial_id]
        mine.since = time.monotonic()
        self.listener.started(mine.job)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Tell how far a job is, or that the run must stop."""
        mine = self.searcher.running.get(trial.trial_id)
        if "fatal" in result:
            self.searcher.fatal = result["fatal"]
        elif "stage" in result and mine is not None:
            if result["stage"] != mine.stage:
                mine.stage, mine.since = result["stage"], time.monotonic()
            self.listener.progressed(mine.job, *(result[name] for name in ("stage", "step", "steps", "seen")))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Print nothing: the searcher hears of it."""

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Print nothing: the searcher hears of it."""
