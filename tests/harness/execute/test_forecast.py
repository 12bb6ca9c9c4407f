"""The forecast against schedules worked out by hand, and what it learns from jobs that have ended."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from test_jobs import jobs

from harness.cli.run import ProgressView
from harness.cli.run_files import Row, Snapshot
from harness.cli.view import RunTable, duration, middle_out
from harness.cli.watch import Watch
from harness.execute.forecast import Expected, Forecast, makespan
from harness.execute.schedule import needs
from harness.plan.jobs import CellJob, Job, ReferenceJob, SynthesisJob


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def expected(all_jobs: list[Job], share: float) -> dict[str, Expected]:
    seconds = {ReferenceJob: {"fp32": 1.0}, SynthesisJob: {"synthesize m": 10.0}}
    cell = {"quantize b": 3.0, "evaluate": 1.0}
    return {job.key: Expected(seconds.get(type(job), cell), share) for job in all_jobs}


def by_hand(all_jobs: list[Job], workers: int) -> float:
    """Return the length of the schedule, gone through in steps of a second."""
    left = {job.key: expected(all_jobs, 1)[job.key].seconds for job in all_jobs}
    running: list[Job] = []
    waiting, now = list(all_jobs), 0
    while left:
        for job in list(waiting):
            if len(running) < workers and not needs(job) & left.keys():
                waiting.remove(job)
                running.append(job)
        now += 1
        for job in list(running):
            left[job.key] -= 1
            if left[job.key] <= 0:
                del left[job.key]
                running.remove(job)
    return now


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_jobs_are_laid_out_as_they_are_handed_out(workers: int) -> None:
    some = jobs()
    what = expected(some, 1 / workers)
    assert makespan([], [(what[job.key].seconds, job) for job in some], what) == pytest.approx(by_hand(some, workers))


def test_a_part_of_a_stage_is_a_part_of_the_job() -> None:
    one = Expected({"quantize b": 30.0, "evaluate": 10.0})
    assert one.part("quantize", 0.5) == pytest.approx(15 / 40)
    assert one.part("evaluate", 0.5) == pytest.approx(35 / 40)
    assert one.part("starting", 0.5) == 0.0
    assert Expected({}).part("evaluate", 0.5) == 0.0


def test_what_jobs_took_corrects_the_others_and_time_counts_down() -> None:
    some, clock = [job for job in jobs() if isinstance(job, CellJob)], Clock()
    forecast = Forecast(list(some), expected(list(some), 1.0), clock)
    before = forecast.left()
    assert before == pytest.approx(4 * len(some))
    for job in some[:2]:  # each takes three times what was expected
        forecast.began(job)
        forecast.moved(job, "quantize", 0, 1)
        clock.now += 12
        forecast.ended(job)
    after = forecast.left()
    assert 4 * (len(some) - 2) * 2 < after <= 4 * (len(some) - 2) * 3
    job = some[2]
    forecast.began(job)
    forecast.moved(job, "quantize", 0, 1)
    left = []
    for step in range(1, 10):
        clock.now += 1.2
        forecast.moved(job, "quantize", step, 10)
        left.append(forecast.left_of(job))
    assert left == sorted(left, reverse=True)
    forecast.moved(job, "evaluate", 1, 1)
    assert forecast.left_of(job) == 0.0


def test_what_starting_takes_counts_down_and_is_over_with_the_first_word_of_a_job() -> None:
    some, clock = jobs()[:1], Clock()
    forecast = Forecast(some, expected(some, 1.0), clock, start=20.0)
    work = expected(some, 1.0)[some[0].key].seconds
    assert forecast.left() == pytest.approx(20 + work)
    clock.now += 8
    assert forecast.left() == pytest.approx(12 + work)
    forecast.began(some[0])
    forecast.moved(some[0], "fp32", 0, 10)
    assert forecast.left() == pytest.approx(work)


def test_a_job_that_takes_longer_than_expected_never_seems_about_to_end() -> None:
    some, clock = jobs()[:1], Clock()
    forecast = Forecast(some, expected(some, 1.0), clock)
    forecast.began(some[0])
    forecast.moved(some[0], "fp32", 1, 10)
    clock.now = 100.0
    assert forecast.left_of(some[0]) > 80


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_table_fits_its_screen_and_keeps_its_height(width: int) -> None:
    row = Row("vit_tiny_patch16_224.augreg_in21k_ft_in1k w4a4 spdfq blockwise seed 0", "quantize", 12, 48, 75.0)
    full = Snapshot(20, 5, 1, 30.0, 5000.0, [row, row], ["vit_digits w4a4 noise minmax seed 0: top-1 9.00 ± 1.00 %"])
    table, heights = RunTable(), []
    for now in (full, Snapshot(20, 6, 1, 31.0, 4000.0, [row], full.newest)):
        out = io.StringIO()
        Console(file=out, width=width, force_terminal=True, color_system=None).print(table.draw(now, width))
        lines = out.getvalue().splitlines()
        heights.append(len(lines))
        assert all(len(line) <= width for line in lines)
        assert any(
            "vit_tiny" in line and "seed 0" in line and "12/48" in line and "1 min 15 s" in line for line in lines
        )
        assert "of 20 jobs done, 1 failed" in lines[0]
        assert "left" in lines[1]
    assert heights[0] == heights[1]


@pytest.mark.parametrize("dumb", [True, False])
def test_a_dumb_terminal_gets_lines_with_the_time_left(
    dumb: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb" if dumb else "xterm")
    out, some = io.StringIO(), [job for job in jobs() if isinstance(job, CellJob)]
    console = Console(file=out, force_terminal=True, width=80, color_system=None)
    with ProgressView(Watch(list(some), tmp_path, expected(list(some), 1.0)), console) as view:
        view.started(some[0])
        view.finished(some[0], None)
    lines = out.getvalue().splitlines()
    told = [line for line in lines if line.startswith(f"[1/{len(some)}]")]
    assert len(told) == dumb
    assert ("\x1b" in out.getvalue()) is not dumb
    assert not dumb or ("left" in told[0] and lines[0].startswith(f"{len(some)} jobs, about"))


def test_times_and_names_in_few_signs() -> None:
    assert [duration(s) for s in (0.4, 59, 61, 3599, 3661, 200_000)] == [
        "0 s",
        "59 s",
        "1 min 01 s",
        "59 min 59 s",
        "1 h 01 min",
        "2 d 7 h",
    ]
    assert middle_out("abcdefghij", 5) == "ab…ij"
    assert middle_out("abcde", 5) == "abcde"
