"""`python -m harness.leaderboard`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from harness_kit import correct, make_fields, put, python, run_leaderboard

from harness.report.measurements import COLUMNS


def test_no_records_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    done = run_leaderboard(str(tmp_path))
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert "no records" in done.err
    assert str(tmp_path) in done.err


def test_only_failures_are_no_records(tmp_path: Path) -> None:
    put(tmp_path, make_fields("a", status="failed"))
    done = run_leaderboard(str(tmp_path))
    assert done.code == 2
    assert "1 failed cells" in done.err


def test_damaged_records_are_named_and_not_counted(tmp_path: Path) -> None:
    put(tmp_path, make_fields("a", top1=40.0))
    torn = put(tmp_path, make_fields("b", method="real", top1=99.0))
    torn.write_text('{"schema": 1, "metr')
    foreign = put(tmp_path, {**make_fields("c", method="spdfq", top1=98.0), "schema": 7})
    done = run_leaderboard(str(tmp_path), "--format", "md")
    assert done.code == 0
    assert set(done.err.splitlines()) == {
        f"Not counted: {torn.name} is not readable JSON.",
        f"Not counted: {foreign.name} is no record: Invalid enum value 7 - at `$.schema`.",
    }
    assert "| noise + minmax | **40.00** | 50.0 |" in done.out
    assert "real" not in done.out
    assert "spdfq" not in done.out


def test_several_folders_make_one_table(tmp_path: Path) -> None:
    put(tmp_path / "one", make_fields("a", seed=0, top1=40.0))
    put(tmp_path / "two", make_fields("a", seed=0, top1=40.0))
    put(tmp_path / "two", make_fields("b", seed=1, top1=50.0))
    done = run_leaderboard(str(tmp_path / "one"), str(tmp_path / "two"), "--format", "md")
    assert "**45.00 ± 7.07**" in done.out


def test_console(tmp_path: Path) -> None:
    put(tmp_path, make_fields("a", top1=40.0))
    done = run_leaderboard(str(tmp_path))
    assert done.code == 0
    for word in ("Top-1, % - val, n = 100", "FP32", "80.00", "noise + minmax", "40.00", "vit_x w4a4"):
        assert word in done.out


def test_a_piped_table_is_whole_and_marks_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    for number in range(12):
        put(tmp_path, make_fields("", model=f"a_long_model_name_{number}", hits=correct(1000, 501 + number)))
    put(tmp_path, make_fields("", model="a_long_model_name_0", method="real", hits=correct(1000, 901)))
    out = run_leaderboard(str(tmp_path)).out
    assert " of " not in out.splitlines()[0]
    assert "*90.10" in out
    assert "*50.10" not in out
    assert "*51.20" in out
    assert "*: the best mean" in out


def test_a_wide_table_goes_on_below_and_no_figure_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for number in range(12):
        put(tmp_path, make_fields("", model=f"a_long_model_name_{number}", hits=correct(1000, 501 + number)))
    done = run_leaderboard(str(tmp_path))
    for number in range(12):
        assert done.out.count(f"{(501 + number) / 10:.2f}") == 1
        assert f"a_long_model_name_{number} " in done.out  # "w4a4" is in the line below
    assert "n = 1000 (1 of " in done.out
    assert done.out.count("significantly worse") == 1


def test_files_hold_what_the_console_would_print(tmp_path: Path) -> None:
    put(tmp_path / "results", make_fields("a", top1=40.0))
    out = tmp_path / "out"
    done = run_leaderboard(str(tmp_path / "results"), "--format", "all", "--out", str(out))
    assert done.code == 0
    files = {"md": "leaderboard.md", "csv": "leaderboard.csv", "latex": "leaderboard.tex", "html": "index.html"}
    assert sorted(path.name for path in out.iterdir()) == sorted(files.values())
    for form, file in files.items():
        printed = run_leaderboard(str(tmp_path / "results"), "--format", form).out
        assert (out / file).read_text() == printed
        assert "40.0" in printed


def test_parquet_holds_a_typed_row_per_measurement(tmp_path: Path) -> None:
    put(tmp_path / "results", make_fields("a", top1=40.0))
    put(tmp_path / "results", make_fields("b", seed=1, top1=None, fp32=None))
    done = run_leaderboard(str(tmp_path / "results"), "--format", "parquet", "--out", str(tmp_path))
    assert (done.code, done.err) == (0, "")
    found = pd.read_parquet(tmp_path / "leaderboard.parquet").sort_values("seed")
    assert list(found.columns) == list(COLUMNS)
    assert found["top1"].tolist()[0] == 40.0
    assert found["top1"].isna().tolist() == [False, True]
    assert run_leaderboard(str(tmp_path / "results"), "--format", "parquet").code == 2


def test_pairs_are_printed_and_written(tmp_path: Path) -> None:
    for method, hits in (("a", 80), ("b", 60)):
        put(tmp_path / "results", make_fields("", method=method, hits=correct(100, hits)))
    words = [str(tmp_path / "results"), "--pairs"]
    done = run_leaderboard(*words)
    assert done.code == 0
    assert "+20.00" in done.out
    assert "<0.0001" in done.out
    assert run_leaderboard(*words, "--format", "md", "--out", str(tmp_path / "out")).code == 0
    assert "| a + minmax | b + minmax | **+20.00** | 20 | 0 |" in (tmp_path / "out" / "pairs.md").read_text()
    assert "vit_x w4a4 - Top-1" in run_leaderboard(*words, "--format", "csv").out


def test_what_cannot_be_done_is_one_sentence(tmp_path: Path) -> None:
    put(tmp_path, make_fields("a"))
    for words in (
        ["--format", "all"],
        ["--pairs"],
        ["--pairs", "--format", "html"],
        ["--filter", "x"],
        ["--rows", "x"],
    ):
        done = run_leaderboard(str(tmp_path), *words)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)


def test_an_output_folder_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    put(tmp_path, make_fields("a"))
    (tmp_path / "file").write_text("")
    done = run_leaderboard(str(tmp_path), "--format", "md", "--out", str(tmp_path / "file" / "below"))
    assert done.code == 2
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("form", ["console", "md", "csv", "latex", "html"])
def test_torch_is_never_imported(tmp_path: Path, form: str) -> None:
    put(tmp_path, make_fields("a", top1=40.0))
    script = (
        "import sys, harness.leaderboard\n"
        f"code = harness.leaderboard.main([{str(tmp_path)!r}, '--format', {form!r}])\n"
        "print(code, sorted({'torch', 'timm', 'ray'} & set(sys.modules)))"
    )
    done = python("-c", script)
    assert done.out.splitlines()[-1] == "0 []", done.err
    assert "40.0" in done.out
