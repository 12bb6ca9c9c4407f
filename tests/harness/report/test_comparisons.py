"""What a study says of itself, which of its rows are comparable, and that no search ends up in a ranking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness_kit import make_fields, put, run_leaderboard, texts

from harness.record.folders import folders_with_records
from harness.record.studies import load_studies
from harness.report.comparisons import Comparison, comparisons, places
from methods.errors import UsageError


def measured(folder: Path, method: str, images: int | None, steps: int | None, top1: float, **fields: Any) -> None:
    """Put a record of a method at a budget; `extra` are further settings that are no defaults."""
    told = {name: count for name, count in (("images", images), ("iterations", steps)) if count is not None}
    overrides = {f"{method}.{name}": value for name, value in (told | fields.pop("extra", {})).items()}
    record = make_fields("", method=method, top1=top1, overrides=overrides, **fields)
    put(folder, {**record, "config": {"method": told, "backend": {}}})


def found(folder: Path) -> list[Comparison]:
    return comparisons(load_studies(folders_with_records(folder)))


def test_rows_of_a_comparison_spent_alike(tmp_path: Path) -> None:
    for seed in (0, 1):
        measured(tmp_path, "a", 8, 100, 50.0 + seed, seed=seed)
    measured(tmp_path, "a", 8, 100, 99.0, extra={"part": False})  # an ablation: measured once, not twice
    measured(tmp_path, "a", 8, 400, 98.0)
    measured(tmp_path, "b", 8, 100, 40.0)
    measured(tmp_path, "c", 8, None, 60.0)  # knows no steps
    measured(tmp_path, "d", 8, 27, 30.0)  # as many passes in fewer steps: the study's word for it
    measured(tmp_path, "a", 32, 100, 97.0)
    measured(tmp_path, "b", 32, 100, 96.0)
    measured(tmp_path, "a", 64, 100, 95.0)  # alone at its budget: compared with nothing
    first, second = found(tmp_path)
    assert str(first.budget) == "8 images, 100 steps"
    assert texts(first.table) == {
        "FP32": ["80.00"],
        "c + minmax": ["60.00"],
        "a + minmax": ["50.50 ± 0.71"],
        "b + minmax": ["40.00"],
        "d + minmax (d.iterations=27)": ["30.00"],
    }
    assert (str(second.budget), list(texts(second.table))) == (
        "32 images, 100 steps",
        ["FP32", "a + minmax", "b + minmax"],
    )


def test_the_newest_versions_come_first(tmp_path: Path) -> None:
    measured(tmp_path / "old", "a", 8, 100, 50.0, bits="w4a4")
    measured(tmp_path / "old", "a", 8, 100, 40.0, bits="w3a3")
    record = make_fields("", method="a", top1=45.0, overrides={"a.images": 8}, data="folder-of-mine")
    put(tmp_path / "new", {**record, "versions": {**record["versions"], "method": 2}})
    [place] = places(found(tmp_path))
    assert [(each.study.folder.name, each.stale) for each in place] == [("new", False), ("old", True)]
    assert place[1].data == "folder-of-mine"  # one checksum, one name: the longest


def test_kinds_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(tmp_path / "results" / "one", "a", 8, 100, 50.0)
    measured(tmp_path / "results" / "two", "a", 8, 100, 88.0, extra={"rate": 0.12345678901})
    (tmp_path / "results" / "two" / "study.toml").write_text('kind = "search"\ntitle = "Rates"\n')
    monkeypatch.chdir(tmp_path)
    out = run_leaderboard("--format", "md").out
    assert "88.00" not in out
    assert "| search | Rates | results/two | 1 |" in out
    every = run_leaderboard("--format", "md", "--all").out
    assert [line for line in every.splitlines() if line.startswith("###")] == [
        "### comparison: Top-1, % - val, n = 100",
        "### search: Top-1, % - val, n = 100",
    ]
    assert "88.00" in run_leaderboard("results/two", "--format", "md").out


def test_a_long_comparison_shows_its_best_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        measured(tmp_path / "results" / "one", f"m{number:02}", 8, 100, 30.0 + number)
    monkeypatch.chdir(tmp_path)
    out = run_leaderboard("--format", "md").out
    assert "| m08 + minmax |" in out
    assert "| m07 + minmax |" not in out
    assert "8 more rows are not shown" in out
    assert "m07 + minmax" in run_leaderboard("--format", "md", "--all").out


def test_a_kind_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    measured(tmp_path, "a", 8, 100, 50.0)
    (tmp_path / "study.toml").write_text('kind = "serach"\n')
    with pytest.raises(UsageError, match="Did you mean 'search'"):
        load_studies([tmp_path])
