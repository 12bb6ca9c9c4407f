"""How busy the Ray executor keeps a machine: `python -m harness.perf --scheduling` and `--schedule-of RESULTS`.

The first runs jobs that only sleep, so that all the rest is overhead: 200 of no length on two CPUs, and 64 of five
seconds on four pretended GPUs. The second reads the records of a matrix and holds the time it took against a list
schedule of its syntheses and cells: largest first, on so many workers, without any overhead.
"""

from __future__ import annotations

import heapq
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from harness.record.record import Finished, Record

if TYPE_CHECKING:
    from harness.plan.jobs import CellJob, Job, RunSettings
    from harness.trial.reference import StageReport

NOTHING = 200
SLEEPS, SLEEP_SECONDS, GPUS = 64, 5.0, 4


@dataclass
class _Clock:
    """A listener that notes when the first job began and the last one ended."""

    times: list[float] = field(default_factory=list)

    def started(self, job: Job) -> None:
        self.times.append(time.monotonic())

    def progressed(self, job: Job, stage: str, done: int, total: int, seen: str) -> None:
        """Take no note."""

    def finished(self, job: Job, error: str | None) -> None:
        self.times.append(time.monotonic())

    @property
    def seconds(self) -> float:
        return max(self.times) - min(self.times)


def _sleep(job: Job, settings: RunSettings, report: StageReport) -> None:
    """Do a job whose passes are the seconds it takes."""
    from harness.plan.estimate import image_passes

    time.sleep(image_passes(job))


def _sleeper(number: int, seconds: float) -> CellJob:
    from harness.inputs.image_sets import DIGITS, DataSource
    from harness.inputs.weights import Weights
    from harness.inputs.zoo import ENTRIES
    from harness.plan.jobs import CellJob, Subject
    from harness.record.cells import Cell, Identity
    from methods.bits import Bits

    [entry, *_] = ENTRIES.values()
    cell = Cell(entry.name, "", "", Bits(4, 4), number, {"name": "", "n": 0, "sha256": ""})
    subject = Subject(entry, Weights(None, ""))
    data, identity = DataSource(DIGITS), Identity(0, 0, "")
    return CellJob(str(number), cell, identity, subject, data, None, None, "", "", False, seconds)


def occupied(count: int, seconds: float, workers: int, gpus: int) -> float:
    """Run jobs that sleep on so many workers; returns the seconds from the first one's start to the last one's end."""
    from harness.execute import ray_session, ray_tune
    from harness.execute.resources import Resources
    from harness.plan.jobs import RunSettings

    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        settings = RunSettings(Path(folder), "cpu", 1, False, "ray", "", None, uuid.uuid4().hex)
        resources = Resources(1, float(gpus > 0))
        jobs: list[Job] = [_sleeper(number, seconds) for number in range(count)]
        with ray_session.session(resources, num_cpus=workers, num_gpus=gpus):
            ray_tune.execute(jobs, settings, clock, resources, _sleep)
    return clock.seconds


def scheduling() -> Iterator[str]:
    """Yield a sentence for each of the two loads."""
    wall = occupied(NOTHING, 0.0, 2, 0)
    yield f"{NOTHING} cells without work on 2 CPUs: {wall:.1f} s, {wall / NOTHING:.3f} s each."
    wall = occupied(SLEEPS, SLEEP_SECONDS, GPUS, GPUS)
    share = SLEEPS * SLEEP_SECONDS / GPUS / wall
    yield f"{SLEEPS} cells of {SLEEP_SECONDS:g} s on {GPUS} GPUs: {wall:.1f} s, the GPUs are busy {100 * share:.1f} %."


def schedule_of(records: list[Record], workers: int) -> Iterator[str]:
    """Yield what the records of one run tell: syntheses per method, time taken, time of the ideal list schedule."""
    finished = [record for record in records if isinstance(record, Finished)]
    syntheses = {record.synthesis_key(): record for record in finished}
    methods = sorted({record.cell.method for record in finished})
    counts = [f"{m} {sum(r.cell.method == m for r in syntheses.values())}" for m in methods]
    yield f"{len(finished)} cells, {len(syntheses)} syntheses: {', '.join(counts)}."
    cells: dict[str, list[float]] = {key: [] for key in syntheses}
    for record in finished:
        stages = record.stages
        cells[record.synthesis_key()].append(stages.quantize.seconds + stages.evaluate.seconds)
    makes = {key: record.stages.synthesize.seconds for key, record in syntheses.items()}
    ideal = list_schedule([(makes[key], cells[key]) for key in syntheses], workers)
    yield f"Ideal list schedule on {workers} workers, nothing but the stages: {ideal:.1f} s."
    starts = {record.provenance.started for record in finished}
    start = starts.pop()
    if starts or start is None or any(record.stages.synthesize.cached for record in finished):
        yield "These records are not of one run from an empty cache: the time it took is not known."
        return
    ends = [datetime.fromisoformat(record.provenance.time) for record in finished]
    wall = (max(ends) - datetime.fromisoformat(start)).total_seconds()
    yield f"From the command's start to the last record: {wall:.0f} s, {wall / ideal:.2f} of the ideal."


def list_schedule(rows: list[tuple[float, list[float]]], workers: int) -> float:
    """Return the length in seconds of a list schedule of (synthesis, its cells): whichever worker is free takes the
    ready job with the longest way to the end."""
    waiting = [(-(make + max(cells, default=0.0)), make, cells) for make, cells in rows]
    heapq.heapify(waiting)
    running: list[tuple[float, list[float]]] = []  # (end, cells that become ready then)
    now = 0.0
    while waiting or running:
        while waiting and len(running) < workers:
            _, seconds, then = heapq.heappop(waiting)
            heapq.heappush(running, (now + seconds, then))
        now, ready = heapq.heappop(running)
        for seconds in ready:
            heapq.heappush(waiting, (-seconds, seconds, []))
    return now
