"""The forecast of a run: how long each job, and all of them, still take.

Every job comes with estimated seconds per stage. What jobs took so far corrects the estimates of those like them (the
same model and stages), and of all others a little. What is left is laid out over the machine in the order in which
jobs are handed out, each as soon as what it needs is done and its share of the machine is free.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.execute.resources import Resources, demand
from harness.execute.schedule import needs
from harness.plan.jobs import CellJob, Job, RunSettings, SynthesisJob
from harness.plan.speeds import Speeds, speeds_here
from harness.record.cache import Cache
from harness.record.folders import folders_with_records
from harness.record.records import load_records
from harness.trial.provenance import processor

# Seconds from a command's start to its first job's: imports, and of Ray its own start and its workers' imports. It is
# what is left of the 57 s of results/digits, on two quiet cores, beside its 36 s of stages.
START_SECONDS = {"ray": 20.0, "local": 5.0}
_TRUST = 5.0  # seconds of work it takes for what was measured to weigh as much as what was estimated
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Expected:
    """What is expected of a job: seconds per stage, in order, by the stage's name, whose first word is what the job
    reports it by; the share of the machine that the job occupies (0 to 1); whether all seconds are of recorded
    speeds."""

    stages: Mapping[str, float]
    share: float = 1.0
    measured: bool = False

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(self.stages.values())

    def part(self, stage: str, part: float) -> float:
        """Return the part (0 to 1) of the job that is done when that part of a stage is."""
        words = [name.partition(" ")[0] for name in self.stages]
        if stage not in words or not self.seconds:
            return 0.0
        before = list(self.stages.values())[: words.index(stage) + 1]
        return (sum(before) - (1 - part) * before[-1]) / self.seconds


def expectations(jobs: list[Job], settings: RunSettings, resources: Resources) -> dict[str, Expected]:
    """Return what to expect of jobs, by key: by the speeds that records under the results folder, and in those
    directly below it, hold of this machine; else by a formula."""
    gpu = settings.device == "cuda"
    records = load_records(folders_with_records(settings.results)).sound if jobs else []
    speeds: dict[int, Speeds] = {}
    found = {}
    for job in jobs:
        given = demand(job, resources)
        if given.cpus not in speeds:
            speeds[given.cpus] = speeds_here(records, processor(), given.cpus, settings.device)
        part = max(given.cpus / resources.cores, given.gpus / resources.cuda if resources.cuda else 0.0)
        share = 1.0 if settings.executor == "local" else min(1.0, part)
        seconds, measured = speeds[given.cpus].of(job, given.cpus, gpu)
        if is_cached(job, settings.results):
            seconds, measured = dict.fromkeys(seconds, 0.0), True
        found[job.key] = Expected(seconds, share, measured)
    return found


def is_cached(job: Job, results: Path) -> bool:
    """Whether what a job makes lies in the cache."""
    kind = "synthesis" if isinstance(job, SynthesisJob) else "reference"
    return not isinstance(job, CellJob) and job.key in Cache.of(results, kind)


@dataclass
class _Course:
    """A running job: when it began, when it was first heard of, and how far it has come."""

    began: float
    heard: float | None = None
    stage: str = ""
    part: float = 0.0


@dataclass
class _Taken:
    """Seconds that work took, and seconds that were expected of it."""

    real: float = 0.0
    expected: float = 0.0

    def pace(self, otherwise: float) -> float:
        """Return the ratio of the two, pulled towards another one where little is known."""
        return (self.real + _TRUST * otherwise) / (self.expected + _TRUST)


@dataclass
class Forecast:
    """Told how a run goes; says how long it still takes. `clock` gives seconds, from any start; `start`: how many it
    takes until a first job is heard of."""

    jobs: list[Job]
    expected: Mapping[str, Expected]
    clock: Callable[[], float]
    start: float = 0.0
    _running: dict[str, _Course] = field(init=False, default_factory=dict)
    _waiting: dict[str, Job] = field(init=False)
    _taken: dict[str, _Taken] = field(init=False, default_factory=lambda: defaultdict(_Taken))
    _room: float = field(init=False, default=1.0)
    _heard_by: float = field(init=False)

    def __post_init__(self) -> None:
        self._waiting = {job.key: job for job in self.jobs}
        self._heard_by = self.clock() + self.start

    def began(self, job: Job) -> None:
        """A job begins, or begins again."""
        self._waiting.pop(job.key, None)
        self._running[job.key] = _Course(self.clock())
        self._room = max(self._room, sum(self.expected[key].share for key in self._running))

    def moved(self, job: Job, stage: str, done: int, total: int) -> None:
        """A job has got so far."""
        course = self._running[job.key]
        if course.heard is None:
            course.heard = self.clock()
            self._heard_by = course.heard
        course.stage, course.part = stage, min(1.0, done / total) if total else 0.0

    def ended(self, job: Job) -> None:
        """A job has ended; what it took teaches only where it was heard of: a worker's start is no work."""
        self._waiting.pop(job.key, None)
        course = self._running.pop(job.key, None)
        if course is not None and course.heard is not None:
            taken = self._taken[self._kind(job)]
            taken.real += self.clock() - course.heard
            taken.expected += self.expected[job.key].seconds

    def left_of(self, job: Job) -> float:
        """Return the seconds a job still takes: the estimate counts less the further it has come."""
        whole, course = self._pace(job) * self.expected[job.key].seconds, self._running.get(job.key)
        if course is None or course.heard is None:
            return whole
        part = self.expected[job.key].part(course.stage, course.part)
        return (1 - part) * ((1 - part) * whole + self.clock() - course.heard)

    def left(self) -> float:
        """Return the seconds until all jobs have ended."""
        running = [(self.left_of(job), job) for job in self.jobs if job.key in self._running]
        waiting = [(self.left_of(job), job) for job in self._waiting.values()]
        starting = max(0.0, self._heard_by - self.clock())
        return starting + makespan(running, waiting, self.expected, self._room)

    def _pace(self, job: Job) -> float:
        """Return how much longer than expected jobs like this one take."""
        known = self._taken.values()
        together = _Taken(sum(taken.real for taken in known), sum(taken.expected for taken in known))
        return self._taken[self._kind(job)].pace(together.pace(1.0))

    def _kind(self, job: Job) -> str:
        """Return what jobs that take alike have in common."""
        return " ".join([job.subject.entry.name, *self.expected[job.key].stages])


def makespan(
    running: list[tuple[float, Job]],
    waiting: list[tuple[float, Job]],
    expected: Mapping[str, Expected],
    room: float = 1.0,
) -> float:
    """Return the seconds until jobs have ended, of which those that wait are handed out in their order.

    running, waiting: (seconds left, job); expected: of each, by key; room: how much of it there is. A job that
    needs more than is ever free starts when nothing else runs.
    """
    missing = {job.key for _, job in (*running, *waiting)}
    held = {job.key: len(needs(job) & missing) for _, job in waiting}
    freed: dict[str, list[int]] = defaultdict(list)
    for place, (_, job) in enumerate(waiting):
        for key in needs(job) & missing:
            freed[key].append(place)
    ready = [place for place, (_, job) in enumerate(waiting) if not held[job.key]]
    busy = [(seconds, job.key) for seconds, job in running]
    heapq.heapify(busy)
    now, free = 0.0, room - sum(expected[key].share for _, key in busy)
    while busy or ready:
        while ready and (not busy or expected[waiting[ready[0]][1].key].share <= free + _ROUNDING):
            seconds, job = waiting[heapq.heappop(ready)]
            heapq.heappush(busy, (now + seconds, job.key))
            free -= expected[job.key].share
        now, ended = heapq.heappop(busy)
        free += expected[ended].share
        for place in freed[ended]:
            key = waiting[place][1].key
            held[key] -= 1
            if not held[key]:
                heapq.heappush(ready, place)
    return now
