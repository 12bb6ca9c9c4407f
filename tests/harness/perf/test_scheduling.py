"""The ideal list schedule against schedules worked out by hand, and what is read from records."""

from __future__ import annotations

import pytest
from harness_kit import make_record
from msgspec.structs import replace

from harness.perf.scheduling import list_schedule, schedule_of
from harness.record.record import Record, Stage, Stages


@pytest.mark.parametrize(
    ("rows", "workers", "expected"),
    [
        ([], 2, 0.0),
        ([(3.0, [2.0, 1.0])], 1, 6.0),  # one after the other
        ([(3.0, [2.0, 1.0])], 2, 5.0),  # both cells wait for the synthesis
        ([(1.0, []), (1.0, []), (5.0, [])], 2, 5.0),  # the largest first
        ([(1.0, [6.0]), (2.0, [1.0]), (2.0, [1.0])], 2, 7.0),  # short synthesis, long way: it must not wait
    ],
)
def test_list_schedule(rows: list[tuple[float, list[float]]], workers: int, expected: float) -> None:
    assert list_schedule(rows, workers) == pytest.approx(expected)


def recorded(method: str, bits: str, seed: int, end: str, cached: bool = False) -> Record:
    record, stage = make_record("k", method=method, bits=bits, seed=seed), Stage(2.0, 1.0, cached=False)
    stages = Stages(Stage(2.0, 1.0, cached), stage, stage)
    when = {"started": "2026-01-01T00:00:00+00:00", "time": f"2026-01-01T00:00:{end}+00:00"}
    return replace(record, stages=stages, provenance=replace(record.provenance, **when))


def test_syntheses_are_counted_from_records_and_time_is_held_against_the_schedule() -> None:
    records = [recorded("a", bits, seed, "30") for bits in ("w4a4", "w8a8") for seed in (0, 1)]
    records.append(recorded("b", "w4a4", 0, "50"))
    # on one worker: three syntheses of 2 s and five cells of 4 s
    assert list(schedule_of(records, 1)) == [
        "5 cells, 3 syntheses: a 2, b 1.",
        "Ideal list schedule on 1 workers, nothing but the stages: 26.0 s.",
        "From the command's start to the last record: 50 s, 1.92 of the ideal.",
    ]


def test_records_of_several_runs_have_no_time() -> None:
    assert "not known" in list(schedule_of([recorded("a", "w4a4", 0, "30", cached=True)], 1))[-1]
