"""How long the console table takes: a floor that a slow machine passes too, and the target itself as a slow test."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from harness_kit import many_records, python


def seconds_of(folder: Path) -> tuple[float, str]:
    """Return the processor seconds of the command in a process of its own, and its output."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = python("-m", "harness.leaderboard", str(folder))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (done.code, done.err) == (0, "")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.out


def test_a_thousand_records_take_about_a_second(tmp_path: Path) -> None:
    many_records(tmp_path, 1000)
    spent, out = seconds_of(tmp_path)
    assert spent < 2.0  # twice the target of 1 s: other work slows processors down
    assert out.count("± ") == 200 + 1  # the values, and the note
    assert "m4 + minmax" in out


@pytest.mark.slow
def test_twenty_thousand_records_take_six_seconds(tmp_path: Path) -> None:
    many_records(tmp_path, 20_000)
    spent, out = seconds_of(tmp_path)
    assert spent < 6.0
    assert out.count("± ") == 4000 + 1
