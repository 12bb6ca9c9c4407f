"""The Ray executor: one Ray Tune experiment whose trials follow the schedule.

A searcher hands Tune the next job that is ready, so a cell's trial starts as soon as its synthesis is there.
Tune places trials on CPUs, GPUs or a cluster and restarts one that crashes; what is done is remembered by
records and the cache alone, so nothing of Tune's own state is kept. Only this module imports Ray.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from harness import catalog
from harness.executors import Listener, Resources
from harness.jobs import Job, RunSettings, Schedule
from harness.trial import fail_job, run_job
from methods.errors import UsageError

# Read when Ray is imported: no usage report, no output of Tune's own, Ctrl-C left to us.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_SLOW_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "3600",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
for _name, _value in _QUIET.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402 - after the environment it reads
from ray import tune  # noqa: E402
from ray.tune.progress_reporter import TrialProgressCallback  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

_REPORT_SECONDS = 1.0
# Trials run in a thread of the worker; there glibc would return every large block to the system and fault it in
# again at the next step. One arena that keeps what it has saves those faults.
_WORKER_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(2**26),
}


def connect(resources: Resources) -> None:
    """Start or join Ray; raises UsageError when it cannot be reached or has less than one trial needs."""
    if not ray.is_initialized():
        try:
            ray.init(
                address=resources.address,
                include_dashboard=None if resources.address else False,
                log_to_driver=False,
                runtime_env={"env_vars": _WORKER_ENVIRONMENT},
                logging_level=logging.ERROR,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(f"Ray cannot be reached at {resources.address!r}: {error}.") from error
    there = ray.cluster_resources()
    for name, wanted in (("CPU", resources.cpus), ("GPU", resources.gpus)):
        if wanted > there.get(name, 0):
            ray.shutdown()
            raise UsageError(f"A trial asks for {wanted:g} {name}s, Ray has {there.get(name, 0):g}.")


def execute(jobs: list[Job], settings: RunSettings, listener: Listener, resources: Resources) -> None:
    """Run the jobs; raises UsageError when one of them finds that the run must stop."""
    if not jobs:
        return
    connect(resources)
    for module in catalog.plugin_modules(settings.plugins):
        ray.cloudpickle.register_pickle_by_value(module)  # workers cannot import it by its name
    storage = settings.results.resolve() / "ray"
    searcher = _JobSearcher(Schedule(jobs), settings, listener)
    trainable = tune.with_resources(_trainable(jobs, settings), {"cpu": resources.cpus, "gpu": resources.gpus})
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(search_alg=searcher, num_samples=len(jobs), reuse_actors=True),
        run_config=tune.RunConfig(
            name=f"run-{os.getpid()}",
            storage_path=str(storage),
            failure_config=tune.FailureConfig(max_failures=1),
            callbacks=[_Relay(searcher)],
            stop=_StopOnFatal(searcher),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        ray.shutdown()
        shutil.rmtree(storage, ignore_errors=True)
    if searcher.fatal is not None:
        raise UsageError(searcher.fatal)


def _trainable(jobs: list[Job], settings: RunSettings) -> Callable[[dict[str, Any]], None]:
    """Return the function Tune runs in a worker for the job of a trial's config."""

    def trial(config: dict[str, Any]) -> None:
        import torch

        last = 0.0

        def report(stage: str, done: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last >= _REPORT_SECONDS:
                last = time.monotonic()
                tune.report({"stage": stage, "step": done, "steps": total})  # "done" is a word of Tune's own

        assigned = bool(ray.get_gpu_ids()) and torch.cuda.is_available()
        here = replace(settings, device=settings.device if assigned else "cpu")
        try:
            tune.report({"error": run_job(jobs[config["job"]], here, report)})
        except UsageError as error:
            tune.report({"fatal": str(error)})

    return trial


class _Unsaved:
    """Pickles as nothing: Tune saves its experiment's parts, but records and the cache hold what is done."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _JobSearcher(_Unsaved, Searcher):  # type: ignore[misc]
    """Hands Tune the jobs of a schedule as configs {"job": index}."""

    def __init__(self, schedule: Schedule, settings: RunSettings, listener: Listener) -> None:
        super().__init__()
        self.schedule, self.settings, self.listener = schedule, settings, listener
        self.index = {job.key: number for number, job in enumerate(schedule.jobs)}
        self.running: dict[str, Job] = {}
        self.fatal: str | None = None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next ready job, FINISHED when there is none left, None when the rest must wait."""
        job = None if self.fatal else self.schedule.next()
        if job is None:
            return Searcher.FINISHED if self.fatal or self.schedule.exhausted else None
        self.running[trial_id] = job
        return {"job": self.index[job.key]}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Note a job's end and record the cells that its failure blocks."""
        job = self.running.pop(trial_id)
        if self.fatal:
            return
        failure = "the worker process died" if error else (result or {}).get("error")
        if error:
            fail_job(job, self.settings, str(failure))
        self.listener.finished(job, failure)
        for lost in self.schedule.finish(job, failed=failure is not None):
            reason = f"{job.label()} failed: {failure}"
            fail_job(lost, self.settings, reason)
            self.listener.finished(lost, reason)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: records and the cache hold what is done."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing, see `save`."""


class _Relay(_Unsaved, TrialProgressCallback):  # type: ignore[misc]
    """Passes the trials' progress on to the listener, in place of Tune's own printing."""

    def __init__(self, searcher: _JobSearcher) -> None:
        super().__init__()
        self.searcher = searcher

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tell that a job has begun."""
        self.searcher.listener.started(self.searcher.running[trial.trial_id])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Tell how far a job is, or that the run must stop."""
        if "fatal" in result:
            self.searcher.fatal = result["fatal"]
        elif "stage" in result and trial.trial_id in self.searcher.running:
            job = self.searcher.running[trial.trial_id]
            self.searcher.listener.progressed(job, result["stage"], result["step"], result["steps"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Print nothing: the searcher hears of it."""

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Print nothing: the searcher hears of it."""


class _StopOnFatal(_Unsaved, tune.Stopper):  # type: ignore[misc]
    """Stops all trials once one has found that the run must stop."""

    def __init__(self, searcher: _JobSearcher) -> None:
        self.searcher = searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no single trial."""
        return False

    def stop_all(self) -> bool:
        """Stop everything after a fatal report."""
        return self.searcher.fatal is not None
