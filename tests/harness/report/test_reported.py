"""Reported figures: the committed files, and how they stand beside measured ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness_kit import correct, make_record, run_leaderboard

from harness.inputs.zoo import ENTRIES
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
