"""`--log`: what jobs gave, told to TensorBoard, Weights & Biases, MLflow or a file of JSON lines, off by default.

A tracker is a listener, so both executors tell it the same, and it runs where the command does. Ray's own callbacks
would not do: they log what trials report while they run, whereas losses, images and figures are in the cache and in
records.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

import msgspec

from harness.cli.tracker_writers import WRITERS, Told
from harness.execute.schedule import Listener
from harness.plan.jobs import CellJob, Job, RunSettings, SynthesisJob, labels
from harness.record.cache import Cache, sheet_path
from harness.record.record import Finished
from harness.record.records import find_record
from methods.errors import UsageError, unknown_name


class Tracker:
    """Passes on to a listener, and tells trackers of every job as it ends, from a thread of its own, so that no job
    waits for them; a context manager whose end waits until all is told.

    A tracker that raises is left out from then on, with a line: what it was told is in the records anyway.
    """

    def __init__(self, inner: Listener, jobs: list[Job], settings: RunSettings, names: list[str]) -> None:
        self._inner, self._results, self._run = inner, settings.results, settings.run
        self._labels, self._writers = labels(jobs), {name: WRITERS[name][1] for name in names}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="trackers")
        self._told: list[Future[None]] = []
        self.problems: list[str] = []

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        for told in self._told:
            told.result()

    def started(self, job: Job) -> None:
        """Pass on that a job begins."""
        self._inner.started(job)

    def progressed(self, job: Job, stage: str, done: int, total: int, seen: str) -> None:
        """Pass on how far a job is."""
        self._inner.progressed(job, stage, done, total, seen)

    def finished(self, job: Job, error: str | None) -> None:
        """Pass on that a job has ended, and tell what it gave."""
        self._inner.finished(job, error)
        self._told.append(self._thread.submit(self._tell, job, error))

    def _tell(self, job: Job, error: str | None) -> None:
        told = _told(job, self._labels[job.key], self._results, error)
        if told is None:
            return
        for name in list(self._writers):
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
