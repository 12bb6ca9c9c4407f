"""A leaderboard of a thousand records has every value in it. How long it takes: `board_benchmark.py` prints it."""

from __future__ import annotations

from pathlib import Path

from harness_kit import many_records, python


def test_a_thousand_records_all_reach_the_table(tmp_path: Path) -> None:
    many_records(tmp_path, 1000)
    done = python("-m", "harness.leaderboard", str(tmp_path))
    assert (done.code, done.err) == (0, "")
    assert done.out.count("± ") == 200 + 1  # 5 methods, 10 models and 4 widths, each the mean of 5 seeds; and the note
    assert "m4 + minmax" in done.out
