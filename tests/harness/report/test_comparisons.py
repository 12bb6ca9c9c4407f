"""What a study says of itself, which of its rows are comparable, that no search ends up in a ranking, and reported
figures beside measured ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness_kit import correct, make_fields, make_record, put, run_leaderboard, texts

from harness.inputs.zoo import ENTRIES
from harness.record.folders import folders_with_records
from harness.record.studies import load_studies
from harness.report.comparisons import Comparison, comparisons, places
from harness.report.reported import FOLDER, load_reported, reported_grid
from harness.report.tables import leaderboards
from methods.errors import UsageError
from spdfq.ablation import ROWS

PAPER = """[[source]]
title = "A paper"
url = "https://example.org"
protocol = "32 images"
images = 50000
flag = "sourced"
backend = "blockwise"
fp32 = { deit_t = 72.0 }
[[source.rows]]
name = "Ours there"
bits = "w4a4"
method = "spdfq"
top1 = { deit_t = 54.0, vit_b = 60.0 }
sd = { deit_t = 0.5 }
[[source.rows]]
name = "without APA"
bits = "w4a4"
method = "spdfq"
settings = { "spdfq.apa" = false }
top1 = { deit_t = 40.0 }
"""
PTQ = """[[source]]
title = "B"
url = "https://example.org/b"
protocol = "real"
images = 50000
flag = "sourced"
[[source.rows]]
name = "RepQ"
bits = "w4a4"
method = "real"
backend = "repq"
same_backend_only = true
top1 = { deit_t = 57.0 }
"""


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


def folder(place: Path) -> Path:
    (place / "a.toml").write_text(PAPER)
    (place / "b.toml").write_text(PTQ)
    return place


def test_measured_rows_stand_beside_reported_ones(tmp_path: Path) -> None:
    records = [
        make_record("a", model="deit_t", method="spdfq", backend="minmax", hits=correct(100, 60), fp32=75.0),
        make_record(
            "b", model="deit_t", method="spdfq", backend="blockwise", top1=30.0, overrides={"spdfq.apa": False}
        ),
        make_record("c", model="deit_t", method="real", backend="minmax", top1=70.0),
    ]
    [table] = leaderboards(records[:1])
    grid = reported_grid(table, load_reported(folder(tmp_path)))
    assert grid is not None
    assert [[word.text + word.mark for word in row] for row in grid.body] == [
        ["deit_t w4a4, spdfq + minmax (1)", "Ours there [1]", "60.00", "54.00 ± 0.50", "+6.00", "80.0", "75.0"]
    ]
    assert (
        "(1) Other protocol than theirs: 100 of 50000 images; FP32 75.00, theirs 72.00; backend minmax, theirs "
        in (grid.notes[1])
    )
    [table] = leaderboards(records)
    grid = reported_grid(table, load_reported(tmp_path))
    assert grid is not None
    assert {row[1].text for row in grid.body} == {"Ours there [1]", "without APA [1]"}  # nothing for real + minmax
    assert [label for label, _ in table.rows][1] == "real + minmax"  # 57.0 reported is no row of ours


def test_real_images_are_compared_under_the_same_backend_only(tmp_path: Path) -> None:
    [table] = leaderboards([make_record("a", model="deit_t", method="real", backend="repq", top1=60.0)])
    grid = reported_grid(table, load_reported(folder(tmp_path)))
    assert grid is not None
    assert [row[4].text for row in grid.body] == ["+3.00"]


def test_nothing_reported_is_no_table(tmp_path: Path) -> None:
    [table] = leaderboards([make_record("a")])
    assert reported_grid(table, load_reported(folder(tmp_path))) is None
    assert load_reported(tmp_path / "absent") == []


@pytest.mark.parametrize(
    "text", ["title = 3 x", 'title = "x"', PAPER.replace("sd =", "unknown ="), PAPER + "top1 = 3"]
)
def test_a_file_of_another_form_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(UsageError, match=r"a\.toml (does not hold reported figures|cannot be read)"):
        load_reported(tmp_path)
    done = run_leaderboard(str(tmp_path), "--reported", str(tmp_path / "absent"))
    assert (done.code, done.err.count("\n")) == (2, 1)


def test_the_committed_figures_are_possible_and_name_models_of_the_zoo() -> None:
    figures = load_reported(FOLDER)
    assert len(figures) > 300
    for figure in figures:
        assert figure.model in ENTRIES
        assert 0 < figure.top1 < 90
        reference = figure.source.fp32.get(figure.model)
        assert reference is None or figure.top1 <= reference
        assert figure.source.url.startswith("https://")
        assert figure.flag or figure.source.flag
    found = {(f.name, f.model, f.bits): f.top1 for f in figures if f.source.title.startswith("SARDFQ")}
    assert found["SARDFQ", "deit_t", "w4a4"] == 52.06
    assert found["SARDFQ", "swin_b", "w6a6"] == 83.03
    assert found["Gaussian noise", "vit_b", "w4a4"] == 0.15


def test_the_committed_ablation_is_the_one_the_method_declares() -> None:
    committed = {
        (frozenset(figure.settings.items()), figure.top1) for figure in load_reported(FOLDER) if figure.settings
    }
    defaults = {"apa": True, "msr": True, "soft_labels": True}
    declared = {
        (frozenset((f"spdfq.{k}", v) for k, v in row.settings.items() if defaults.get(k) != v), row.reported)
        for row in ROWS
        if not row.full
    }
    assert committed == declared
