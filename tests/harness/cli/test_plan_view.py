"""`--plan`: rows that differ, what the minutes are made of, and estimates that cover the whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from harness_kit import run_bench, run_here, synthesis_files
from PIL import Image

from harness import ablation
from harness.record.cache import Cache
from harness.search import __main__ as search
from spdfq.ablation import ROWS

WORDS = ["--models", "vit_digits", "--bits", "w4a4", "--plan"]


def rows(text: str) -> list[list[str]]:
    return [[word.strip() for word in line.strip("│").split("│")] for line in text.splitlines() if line[:1] == "│"]


def test_a_setting_that_halves_a_stage_is_named(tmp_path: Path) -> None:
    words = [*WORDS, "--methods", "spdfq", "--set", "spdfq.iterations=400", "--set", "blockwise.iterations=300"]
    whole = {row[1]: row for row in rows(run_bench(tmp_path, *words).out) if len(row) == 5}
    assert "--set spdfq.iterations=200" in whole["synthesize spdfq"][4]
    assert whole["quantize blockwise"][4] == "--set blockwise.iterations=150"
    half = run_bench(tmp_path, *words, "--set", "spdfq.iterations=200", "--set", "blockwise.iterations=150").out
    for row in rows(half):
        if len(row) == 5 and row[1] in ("synthesize spdfq", "quantize blockwise"):
            assert float(row[2]) == pytest.approx(float(whole[row[1]][2]) / 2, abs=0.1)


def test_names_are_whole_at_80_columns_and_in_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    words = ["--models", name, "--weights", "random", "--limit", "2", "--methods", "noise", "--bits", "w4a4", "--plan"]
    assert any(row[0] == name for row in rows(run_bench(tmp_path, *words).out))
    monkeypatch.setenv("COLUMNS", "80")
    narrow = run_bench(tmp_path, *words).out
    cells = [row for row in rows(narrow.partition("What it costs")[0]) if len(row) == 7]
    assert name in "".join(row[0] for row in cells)
    assert all(len(line) <= 80 for line in narrow.splitlines() if line[:1] in "┏┃│└")
    assert "…" not in narrow


def test_of_very_many_cells_the_first_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.cli.plan_view._MOST_ROWS", 3)
    words = ["--methods", "noise", "--backends", "minmax", "--limit", "10", "--seeds", "0,1,2,3,4"]
    told = run_bench(tmp_path / "r", *WORDS, *words).out
    assert [row[4] for row in rows(told) if row[-1] == "to run"] == ["0", "1", "2"]
    assert "and 2 cells more" in told
    assert "5 cells, 0 recorded; 5 syntheses and 5 cells to run." in told


def test_rows_of_an_ablation_say_what_differs(tmp_path: Path) -> None:
    words = ["--model", "vit_digits", "--bits", "w4a4", "--executor", "local", "--results", str(tmp_path), "--plan"]
    outcome = run_here(ablation.main, words)
    assert outcome.code == 0, outcome.err
    told = [row[5] for row in rows(outcome.out) if len(row) == 8]
    assert len(told) == len(set(told)) == len(ROWS)
    assert {"-", "spdfq.prior_law=laplace", "spdfq.first_layer=0"} <= set(told)


def test_the_estimate_of_a_search_is_of_all_samples(tmp_path: Path) -> None:
    outcome = run_here(search.main, ["--samples", "2000", "--limit", "20", "--results", str(tmp_path), "--plan"])
    assert outcome.code == 0, outcome.err
    [(whole, count, each)] = re.findall(
        r"Roughly ([\d.]+) minutes for (\d+) samples like this one \(([\d.]+) each\)", outcome.out
    )
    assert count == "2000"
    assert float(whole) == pytest.approx(2000 * float(each), abs=2000 * 0.05 + 1)  # told to a tenth of a minute


def test_a_run_ends_by_saying_where_things_are_and_whose_images_are_which(tmp_path: Path) -> None:
    words = ["--models", "vit_digits", "--bits", "w4a4", "--methods", "noise", "--backends", "minmax", "--limit", "9"]
    for _ in ("a first run", "one that reuses all"):
        done = run_bench(tmp_path, *words, "--seeds", "0,1")
        assert done.code == 0, done.err
        lines = done.out.splitlines()
        assert f"Records: {tmp_path / 'records'}" in lines
        assert f"Page: python -m harness.leaderboard {tmp_path} --format html --out {tmp_path}" in lines
        assert lines[-1] == f"Images: {tmp_path / 'images'} (a sheet per synthesis, 2 of this table)"
        sheets = sorted((tmp_path / "images").iterdir())
        for seed, sheet in enumerate(sheets):
            assert re.fullmatch(rf"vit_digits-noise-seed{seed}-[0-9a-f]{{12}}\.png", sheet.name)
            with Image.open(sheet) as picture:
                assert picture.info["Title"] == f"vit_digits noise seed {seed}: images=32"
            [key] = [path.stem for path in synthesis_files(tmp_path) if sheet.stem.endswith(path.stem[:12])]
            entry = Cache.of(tmp_path, "synthesis").load(key)
            assert entry is not None
            assert entry.about["of"] == {
                "model": "vit_digits",
                "method": "noise",
                "seed": seed,
                "settings": {"images": 32},
            }
