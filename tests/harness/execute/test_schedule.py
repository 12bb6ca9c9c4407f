"""Two commands on one results folder: no job twice at the same time, none twice at all, none lost."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from test_jobs import jobs

from harness.execute import claims
from harness.execute import schedule as dispatch
from harness.execute.schedule import Dispatch
from harness.plan.jobs import CellJob, Job, RunSettings


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
