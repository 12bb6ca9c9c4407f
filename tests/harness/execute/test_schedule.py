"""Two commands on one folder: no job twice, none lost; what a trial is given of threads and of a GPU."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_jobs import SUBJECT, cell, jobs, reference, synthesis

from harness.execute import claims
from harness.execute import schedule as dispatch
from harness.execute.resources import Demand, Resources, demand
from harness.execute.schedule import Dispatch
from harness.inputs.zoo import ENTRIES, PARAMETERS
from harness.plan.estimate import footprint, gpu_peak_mb, parameters
from harness.plan.jobs import CellJob, Job, RunSettings, Subject


class Ears:
    def __init__(self) -> None:
        self.heard: list[tuple[str, str | None]] = []

    def started(self, job: Job) -> None:
        pass

    def progressed(self, job: Job, stage: str, done: int, total: int, seen: str) -> None:
        pass

    def finished(self, job: Job, error: str | None) -> None:
        self.heard.append((job.key, error))


def settings(results: Path) -> RunSettings:
    return RunSettings(results, "cpu", 1, False, "local", "", None, "run")


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The keys of recorded cells, in place of records."""
    keys: set[str] = set()
    monkeypatch.setattr(dispatch, "is_recorded", lambda _results, key: key in keys)
    monkeypatch.setattr(dispatch, "fail_job", lambda _job, _settings, error: error)
    monkeypatch.setattr(claims, "_LOOK_SECONDS", 0.0)
    return keys


def test_two_commands_share_the_work(tmp_path: Path, done: set[str]) -> None:
    ran: Counter[str] = Counter()
    running: set[str] = set()
    lock, ears = threading.Lock(), [Ears(), Ears()]

    def command(mine: Ears) -> None:
        with Dispatch(jobs(), settings(tmp_path), mine, alone=False) as hands:
            while not hands.exhausted:
                if (job := hands.next()) is None:
                    continue
                with lock:
                    assert job.key not in running
                    running.add(job.key)
                    ran[job.key] += 1
                threading.Event().wait(0.01)
                with lock:
                    running.discard(job.key)
                    done.add(job.key)
                hands.finish(job, None)

    threads = [threading.Thread(target=command, args=(mine,)) for mine in ears]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    cells = {job.key for job in jobs() if isinstance(job, CellJob)}
    assert {key: ran[key] for key in cells} == dict.fromkeys(cells, 1)
    for mine in ears:
        assert sorted(mine.heard) == sorted((job.key, None) for job in jobs()), "each hears of every job's end"
    assert list((tmp_path / "cache" / "claims").iterdir()) == []


def test_a_job_run_again_comes_first_and_keeps_its_claim(tmp_path: Path, done: set[str]) -> None:
    with Dispatch(jobs(), settings(tmp_path), Ears(), alone=False) as hands:
        first = hands.next()
        assert first is not None
        hands.again(first)
        assert hands.next() is first
        assert [path.name for path in (tmp_path / "cache" / "claims").iterdir()] == [f"{first.key}.0"]
        assert not hands.exhausted


def test_what_a_failure_blocks_is_told_of(tmp_path: Path, done: set[str]) -> None:
    ears: Any = Ears()
    with Dispatch(jobs(), settings(tmp_path), ears, alone=False) as hands:
        while (job := hands.next()) is not None:
            hands.finish(job, "boom" if job.key == "a" else None)
        assert hands.exhausted
    failed = {key: error for key, error in ears.heard if error}
    assert failed == {"a": "boom"} | dict.fromkeys(("a1", "a2"), "vit_digits maker seed 0 failed: boom")
    assert len(ears.heard) == 10


BASE = Subject(ENTRIES["vit_b"], SUBJECT.weights)
TINY = Subject(ENTRIES["deit_t"], SUBJECT.weights)


def of(job: Job, subject: Subject, **changes: float) -> Job:
    return replace(job, subject=subject, **changes)  # type: ignore[arg-type]


def flexible(**there: Any) -> Resources:
    return Resources(8, float("cuda" in there), fixed_cpus=False, fixed_gpus=False, **there)


def test_threads_follow_the_models_size() -> None:
    there = flexible(cores=32)
    assert demand(synthesis("s", "r"), there) == Demand(1, 0.0)
    assert demand(of(synthesis("s", "r"), BASE), there) == Demand(8, 0.0)
    assert demand(of(synthesis("s", "r"), BASE), replace(there, cores=3)) == Demand(3, 0.0)
    assert demand(of(synthesis("s", "r"), BASE, passes=0.0), there) == Demand(1, 0.0), "nothing to compute"
    assert demand(of(reference("r"), BASE), there) == Demand(8, 0.0)


def test_what_is_asked_for_is_given() -> None:
    there = Resources(2, 0.7, cores=32, cuda=4)
    for job in (synthesis("s", "r"), of(cell("c", "s", "r"), BASE), reference("r")):
        assert demand(job, there) == Demand(2, 0.7)


@pytest.mark.parametrize(("gpu_mb", "expected"), [(400_000, 0.25), (100_000, 0.34), (60_000, 0.5), (40_000, 1.0)])
def test_the_share_is_the_smallest_whose_memory_holds_the_job(gpu_mb: float, expected: float) -> None:
    size = footprint(BASE.entry)
    peak = 500 + size.weights + 128 * size.activations
    assert 25_000 < peak < 34_000, "these bounds tell 0.25, 0.34, 0.5 and 1 of the four memories apart"
    job = of(synthesis("s", "r"), BASE)
    assert gpu_peak_mb(job) == pytest.approx(peak)
    assert demand(job, flexible(cores=16, cuda=2, gpu_mb=gpu_mb)).gpus == expected


def test_the_stage_counts() -> None:
    peaks = [gpu_peak_mb(of(job, TINY)) for job in (reference("r"), cell("c", "s", "r"), synthesis("s", "r"))]
    assert peaks == sorted(peaks)
    assert peaks[0] < peaks[2] / 5, "a forward pass keeps no activations"


def test_cores_are_divided_with_the_gpus() -> None:
    there = flexible(cores=16, cuda=4, gpu_mb=40_000)
    assert demand(of(synthesis("s", "r"), BASE), there) == Demand(4, 1.0)
    assert demand(of(reference("r"), BASE), there) == Demand(1, 0.25)


def test_parameters_are_those_listed() -> None:
    for name in ("vit_digits", "deit_t"):
        assert int(footprint(ENTRIES[name]).weights * 2**18) == pytest.approx(PARAMETERS[name], rel=0.01)
        assert parameters(replace(ENTRIES[name], name="another")) == pytest.approx(PARAMETERS[name], rel=0.01)
