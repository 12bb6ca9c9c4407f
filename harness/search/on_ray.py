"""A search on Ray: one Tune trial per sample, proposed by `OptunaSearch` and stopped early by Tune's own ASHA.

A trial measures its sample as the local search does and tells Tune what every rung gave; what is done is remembered by
records alone. Random and grid searches need no searcher: their points are known beforehand.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from typing import Any

from harness.execute.ray_session import Trainable, Unsaved, assigned_device, fit, session, storage
from harness.inputs import plugins as catalog
from harness.inputs.seeds import derived_seed
from harness.report.layout import METRICS
from harness.search.measure import Outcome, SearchRun, Told, measure, next_point
from harness.search.proposals import distributions, sampler
from harness.search.space import Settings
from methods.errors import UsageError

# isort: split
from ray import tune  # after `ray_session`, which sets the environment it reads
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

_FACTOR = 2


def execute(run: SearchRun, told: Told) -> None:
    """Measure the samples; raises UsageError when a trial finds that the run must stop."""
    watch, searcher = _Watch(run, told), _searcher(run) if run.kind == "optuna" else None
    trainable = tune.with_resources(_trainable(run), {"cpu": run.resources.cpus, "gpu": run.resources.gpus})
    tuned = tune.TuneConfig(
        search_alg=searcher,
        scheduler=_scheduler(run),
        num_samples=run.samples if searcher else 1,
        reuse_actors=True,
    )
    points = None if searcher else {"point": tune.grid_search(_points(run))}
    with storage(run.settings.results, f"search-{os.getpid()}") as folder, session(run.resources):
        fit(trainable, tuned, folder, run.settings.plugins, watch, watch, points, tries=2)
    if watch.fatal is not None:
        raise UsageError(watch.fatal)


def _points(run: SearchRun) -> list[Settings]:
    """Return all points of a search that does not depend on what it finds."""
    history: list[tuple[Settings, tuple[float, ...] | None]] = []
    while (point := next_point(run, history)) is not None:
        history.append((point, None))
    return [point for point, _ in history]


def _searcher(run: SearchRun) -> OptunaSearch:
    """Return Ray's optuna search, to try the known points first; its seed differs once there are some, or it would
    draw those again."""
    metrics = run.search.metrics
    modes = ["max" if METRICS[name].higher else "min" for name in metrics]
    return _Optuna(
        space=distributions(run.search.space),
        metric=metrics if len(metrics) > 1 else metrics[0],
        mode=modes if len(metrics) > 1 else modes[0],
        points_to_evaluate=run.known[: run.samples] or [run.search.start],
        sampler=sampler(derived_seed(run.seed, "search", str(len(run.known)))),
    )


def _scheduler(run: SearchRun) -> ASHAScheduler | None:
    """Return ASHA where the search has rungs: its time is images seen."""
    rungs = [images["n"] for images in run.search.images]
    if len(rungs) == 1:
        return None
    name = run.search.metrics[0]
    mode = "max" if METRICS[name].higher else "min"
    return ASHAScheduler(
        time_attr="images",
        metric=name,
        mode=mode,
        max_t=rungs[-1],
        grace_period=rungs[0],
        reduction_factor=_FACTOR,
    )


def _trainable(run: SearchRun) -> Trainable:
    """Return the function Tune runs in a worker for the point of a trial's config."""

    def trial(config: dict[str, Any]) -> None:
        catalog.load(run.settings.plugins)
        here = replace(run, settings=replace(run.settings, device=assigned_device(run.settings)))
        nothing = dict.fromkeys(run.search.metrics, math.nan)
        try:
            for found in measure(here, config["point"]):
                if found.values is None:
                    tune.report({**nothing, "images": found.n, "error": found.error})
                else:
                    tune.report({**dict(zip(run.search.metrics, found.values, strict=True)), "images": found.n})
        except UsageError as error:
            tune.report({**nothing, "images": 0, "fatal": str(error)})

    return trial


class _Optuna(Unsaved, OptunaSearch):  # type: ignore[misc]
    """Hands out points as configs {"point": settings}, hears of failures, and saves nothing."""

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """Return the next point."""
        return {"point": super().suggest(trial_id)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell optuna what a sample gave, or that it failed."""
        failed = error or bool({"error", "fatal"} & set(result or {}))
        super().on_trial_complete(trial_id, None if failed else result, failed)


class _Watch(Unsaved, TrialProgressCallback):  # type: ignore[misc]
    """Passes on what samples gave, in place of Tune's own printing, and keeps why the run must stop."""

    def __init__(self, run: SearchRun, told: Told) -> None:
        super().__init__()
        self.run, self.told = run, told
        self.fatal: str | None = None

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Keep why the run must stop."""
        self.fatal = self.fatal or result.get("fatal")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Pass on what a sample gave on its last rung."""
        point, result = trial.config["point"], trial.last_result
        if self.fatal:
            return
        if "error" in result:
            self.told(Outcome(point, 0, None, result["error"]))
        else:
            self.told(Outcome(point, result["images"], [result[name] for name in self.run.search.metrics]))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Pass on that a sample's process died."""
        self.told(Outcome(trial.config["point"], 0, None, "the worker process died"))
