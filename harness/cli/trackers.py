"""`--log`: what jobs gave, told to TensorBoard, Weights & Biases, MLflow or a file of JSON lines, off by default.

A tracker is a listener, so both executors tell it the same, and it runs where the command does. Ray's own callbacks
would not do: they log what trials report while they run, whereas losses, images and figures are in the cache and in
records. Each job that ends becomes a run of the tracker's own, closed at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import msgspec

from harness.execute.schedule import Listener
from harness.plan.jobs import CellJob, Job, RunSettings, SynthesisJob, labels
from harness.record.cache import Cache, sheet_path
from harness.record.record import Finished
from harness.record.records import find_record
from methods.errors import UsageError, unknown_name
from methods.text import printable

PROJECT = "spdfq-bench"


@dataclass(frozen=True)
class Told:
    """A job that has ended."""

    name: str
    """Its label, with the settings that tell it apart."""
    kind: str
    """`synthesis` or `cell`."""
    about: dict[str, str]
    """What it was of: model, method, seed, settings; of a cell backend and bits, too."""
    losses: dict[str, list[float]]
    """A value per step of each term of the loss."""
    figures: dict[str, float]
    """Metrics, and what its stages took: `seconds/STAGE`, `peak_mb/STAGE`."""
    picture: Path | None
    """The contact sheet of a synthesis."""
    error: str | None
    """Why it failed."""


Write: TypeAlias = Callable[[Path, str, Told], None]


class Tracker:
    """Passes on to a listener, and tells trackers of every job as it ends.

    A tracker that raises is left out from then on, with a line: what it was told is in the records anyway.
    """

    def __init__(self, inner: Listener, jobs: list[Job], settings: RunSettings, names: list[str]) -> None:
        self._inner, self._results, self._run = inner, settings.results, settings.run
        self._labels, self._writers = labels(jobs), {name: WRITERS[name][1] for name in names}
        self.problems: list[str] = []

    def started(self, job: Job) -> None:
        """Pass on that a job begins."""
        self._inner.started(job)

    def progressed(self, job: Job, stage: str, done: int, total: int, seen: str) -> None:
        """Pass on how far a job is."""
        self._inner.progressed(job, stage, done, total, seen)

    def finished(self, job: Job, error: str | None) -> None:
        """Pass on that a job has ended, and tell what it gave."""
        self._inner.finished(job, error)
        told = _told(job, self._labels[job.key], self._results, error)
        for name in list(self._writers):
            if told is not None:
                self._tell(name, told)

    def _tell(self, name: str, told: Told) -> None:
        try:
            self._writers[name](self._results / "logs", self._run, told)
        except Exception as problem:  # a server that is away must not cost the run
            del self._writers[name]
            self.problems.append(f"{name} was told no more after {type(problem).__name__}: {problem}")


def check_trackers(names: list[str]) -> None:
    """Raise UsageError for a tracker that is not known, or whose package is not installed."""
    for name in names:
        if name not in WRITERS:
            raise unknown_name("tracker", name, WRITERS)
        package = WRITERS[name][0]
        if package and find_spec(package) is None:
            raise UsageError(f"--log {name} needs the package {package}: pip install 'spdfq-bench[{name}]'.")


def _told(job: Job, name: str, results: Path, error: str | None) -> Told | None:
    """Return what a job gave; None of an FP32 reference, whose figures stand in every cell."""
    if isinstance(job, SynthesisJob):
        return _of_synthesis(job, name, results, error)
    return _of_cell(job, name, results, error) if isinstance(job, CellJob) else None


def _of_synthesis(job: SynthesisJob, name: str, results: Path, error: str | None) -> Told:
    entry = Cache.of(results, "synthesis").load(job.key)
    model = job.subject.entry.name
    about = {"model": model, "method": job.method, "seed": str(job.seed)}
    about |= {f"{job.method}.{name}": str(value) for name, value in asdict(job.config).items()}
    sheet = sheet_path(results, model, job.method, job.seed, job.key)
    stage = entry.about["stage"] if entry else {}
    figures = {f"{name}/synthesize": float(value) for name, value in stage.items() if type(value) in (int, float)}
    losses = entry.about["losses"] if entry else {}
    return Told(name, "synthesis", about, losses, figures, sheet if sheet.is_file() else None, error)


def _of_cell(job: CellJob, name: str, results: Path, error: str | None) -> Told:
    cell, record, figures = job.cell, find_record(results, job.key), {}
    about = {"model": cell.model, "method": cell.method, "backend": cell.backend, "bits": str(cell.bits)}
    about |= {"seed": str(cell.seed), **{name: str(value) for name, value in cell.overrides.items()}}
    if isinstance(record, Finished):
        found = msgspec.structs.asdict(record.metrics)
        figures = {name: float(value) for name, value in found.items() if value is not None}
        for stage, took in msgspec.structs.asdict(record.stages).items():
            figures[f"seconds/{stage}"] = took.seconds
    return Told(name, "cell", about, {}, figures, None, error)


def _jsonl(folder: Path, run: str, told: Told) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"run": run, **asdict(told), "picture": str(told.picture) if told.picture else None})
    with (folder / "log.jsonl").open("a") as stream:
        stream.write(line + "\n")


def _tensorboard(folder: Path, run: str, told: Told) -> None:
    import numpy as np
    from PIL import Image
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(folder / "tensorboard" / run[:8] / _file_name(told))) as writer:
        writer.add_text("about", json.dumps(told.about | {"error": told.error or ""}))
        for name, values in told.losses.items():
            for step, value in enumerate(values):
                writer.add_scalar(f"loss/{name}", value, step)
        for name, value in told.figures.items():
            writer.add_scalar(name, value)
        if told.picture:
            with Image.open(told.picture) as picture:
                writer.add_image("images", np.asarray(picture.convert("RGB")), dataformats="HWC")


def _wandb(folder: Path, run: str, told: Told) -> None:
    import wandb

    quiet = wandb.Settings(silent=True, console="off")
    folder.mkdir(parents=True, exist_ok=True)
    with wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        group=run,
        job_type=told.kind,
        name=told.name,
        config=told.about,
        dir=folder,
        reinit="create_new",
        settings=quiet,
    ) as open_run:
        for step in range(max(map(len, told.losses.values()), default=0)):
            now = {f"loss/{name}": values[step] for name, values in told.losses.items() if step < len(values)}
            open_run.log(now, step=step)
        open_run.summary.update(told.figures | {"error": told.error or ""})
        if told.picture:
            open_run.log({"images": wandb.Image(str(told.picture))})


def _mlflow(folder: Path, run: str, told: Told) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    folder.mkdir(parents=True, exist_ok=True)
    elsewhere = os.environ.get("MLFLOW_TRACKING_URI")
    client = MlflowClient(elsewhere or f"sqlite:///{folder / 'mlflow.db'}")
    experiment, pictures = client.get_experiment_by_name(PROJECT), None if elsewhere else (folder / "mlflow").as_uri()
    where = experiment.experiment_id if experiment else client.create_experiment(PROJECT, pictures)
    opened = client.create_run(where, run_name=told.name).info
    values = [(name, value, 0) for name, value in told.figures.items()]
    values += [(f"loss/{name}", value, step) for name, row in told.losses.items() for step, value in enumerate(row)]
    metrics = [Metric(name, value, opened.start_time, step) for name, value, step in values]
    params = [Param(name, value) for name, value in told.about.items()]
    tags = [RunTag("run", run), RunTag("kind", told.kind), RunTag("error", told.error or "")]
    client.log_batch(opened.run_id, metrics[:1000], params[:100], tags)
    for start in range(1000, len(metrics), 1000):  # a batch of MLflow holds no more
        client.log_batch(opened.run_id, metrics[start : start + 1000])
    if told.picture:
        client.log_artifact(opened.run_id, str(told.picture))
    client.set_terminated(opened.run_id, "FAILED" if told.error else "FINISHED")


def _file_name(told: Told) -> str:
    return printable(told.name).replace("/", "_")[:150]


WRITERS: dict[str, tuple[str, Write]] = {
    "jsonl": ("", _jsonl),
    "tensorboard": ("tensorboardX", _tensorboard),
    "wandb": ("wandb", _wandb),
    "mlflow": ("mlflow", _mlflow),
}
