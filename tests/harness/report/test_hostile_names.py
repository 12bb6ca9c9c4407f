"""Names reach no terminal, file or spreadsheet but as text that can be seen; LaTeX tables, exact and compiled."""

from __future__ import annotations

import base64
import csv
import io
import re
import shutil
import subprocess
import zlib
from pathlib import Path
from typing import Any

import pytest
from harness_kit import ROOT, correct, make_record
from rich.console import Console

from harness.cli.run import ProgressView
from harness.cli.watch import Watch
from harness.execute.forecast import Expected
from harness.leaderboard import main
from harness.record.studies import Study
from harness.report.formats.console import console as console_text
from harness.report.formats.csv import _cell, grid_csv
from harness.report.formats.html import HtmlFormat
from harness.report.formats.latex import escape, latex
from harness.report.formats.markdown import markdown
from harness.report.report import Report
from harness.report.tables import leaderboards
from harness.report.text_table import Grid, Word

HOSTILE = "=cmd|' /C calc'!A0 \x1b[2J \x9b31m \u202egnp \x00 \n\r new \u2028 line"
SEEN = "=cmd|' /C calc'!A0 \\x1b[2J \\x9b31m \\u202egnp \\x00 \\n\\r new \\u2028 line"
UNSEEN = set("\x1b\x9b\u202e\x00\r\u2028")


def hostile_grid() -> Grid:
    return Grid(HOSTILE, [HOSTILE, "top1"], [[Word(HOSTILE), Word("-1.5", strong=True)]], [HOSTILE])


@pytest.mark.parametrize("form", [console_text, markdown, latex, grid_csv])
def test_no_format_passes_on_what_cannot_be_seen(monkeypatch: pytest.MonkeyPatch, form: object) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    text = form([hostile_grid()])  # type: ignore[operator]
    assert set(text) & UNSEEN == set()


def test_the_page_passes_on_nothing_unseen() -> None:
    record = make_record("a", method=HOSTILE, backend=HOSTILE, data=HOSTILE, overrides={f"{HOSTILE}.x": HOSTILE})
    report = Report([Study(Path("x"), "comparison", HOSTILE, [record]), Study(Path("y"), "search", HOSTILE, [record])])
    text = str(HtmlFormat().files(report)["index.html"])
    assert "\\x1b[2J" in text
    assert set(text) & UNSEEN == set()
    for name in ("data-rows", "data-records"):
        packed = re.search(rf'id="{name}">([^<]+)<', text)
        assert packed is not None
        assert set(zlib.decompress(base64.b64decode(packed[1])).decode()) & UNSEEN == set()


def test_a_spreadsheet_gets_numbers_and_text_and_no_formula() -> None:
    header, row = csv.reader(io.StringIO(grid_csv([hostile_grid()])))
    assert header == ["table", "'" + SEEN, "top1"]
    assert row == ["'" + SEEN, "'" + SEEN, "-1.5"]


@pytest.mark.parametrize("text", ["=1+1", "+A1", "-A1", "@SUM(A1)", "=", "-1.5", "+2", "-", "-inf", "a=b"])
def test_cells_by_hand(text: str) -> None:
    defused = text in {"=1+1", "+A1", "-A1", "@SUM(A1)"}
    assert _cell(text) == ("'" + text if defused else text)


class _Entry:
    name = HOSTILE


class _Subject:
    entry = _Entry()


class _Job:
    key, subject = "k", _Subject()

    def label(self) -> str:
        return "[red]" + HOSTILE


def test_progress_shows_labels_and_errors_as_they_are(tmp_path: Path) -> None:
    out = io.StringIO()
    job: Any = _Job()
    view = ProgressView(Watch([job], tmp_path, {"k": Expected({})}), Console(file=out, width=400))
    view.started(job)
    view.finished(job, HOSTILE)
    assert set(out.getvalue()) & UNSEEN == set()
    assert f"failed: {SEEN}" in out.getvalue()


def test_a_name_of_a_million_letters_is_shown_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    grid = Grid("x" * 10**6, ["row", "top1"], [[Word("y" * 10**6), Word("1.5")]], [])
    for form in (console_text, markdown, latex, grid_csv):
        assert 2000 < len(form([grid])) < 200_000


SIGNS = "a_b&c%d$e#f{g}h~i^j\\k<l>m|n\"o±p†q–r--s''t``u\nv[w]*"


def test_a_table_is_this_text() -> None:
    records = [make_record("a", top1=50.0), make_record("b", method="real", top1=60.0)]
    text = latex([table.grid() for table in leaderboards(records)])
    assert text.startswith("% needs \\usepackage[T1]{fontenc} and \\usepackage{booktabs}\n\\begin{table}\n")
    assert (
        "\\caption{Top-1, \\% - val, n = 100}\n"
        "\\begin{tabular}{lrr}\n"
        "\\toprule\n"
        "method + backend & vit\\_x w4a4 & kept, \\% \\\\\n"
        "\\midrule\n"
        "FP32 & 80.00 & {}- \\\\\n" in text.replace("& - \\\\", "& {}- \\\\")
    )
    assert "real + minmax & \\textbf{60.00} & 75.0 \\\\\n" in text
    assert text.count("\\begin") == text.count("\\end") == 2


def test_signs_of_latex_are_escaped_and_others_never_break_it() -> None:
    assert escape("50 %_&") == r"50 \%\_\&"
    assert escape("–ü\u200b") == "???"
    assert escape("a\\b") == r"a\textbackslash{}b"


def rendered_tables(text: str) -> list[list[list[str]]]:
    """Return tables as a Markdown renderer sees them, rows of cells' plain text; nothing else may be markup."""
    library = pytest.importorskip("markdown_it", reason="no Markdown renderer here")
    parser = library.MarkdownIt("commonmark").enable(["table", "strikethrough"])
    found: list[list[list[str]]] = []
    for token in parser.parse(text):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline":
            kinds = {child.type for child in token.children}
            assert kinds <= {"text", "text_special", "strong_open", "strong_close"}, (kinds, token.content)
            if token.level > 3:
                found[-1][-1].append("".join(child.content for child in token.children))
        assert token.type not in ("html_block", "fence", "code_block", "blockquote_open", "hr")
    return found


def test_markdown_is_the_tables_it_was_made_of() -> None:
    words = [SIGNS, HOSTILE, "<script>x</script>", "[a](b)", "![a](b)", "`c`", "&lt;", "**x**", "~~x~~", "#", "- x"]
    body = [[Word(word, strong=True), Word("-1.5", mark="†"), Word("_x_")] for word in words]
    grid = Grid(SIGNS, ["a|b", "<b>", "top-1"], body, [SIGNS, "<img src=x>"])
    plain = [[" ".join(word.text.split()) + word.mark for word in row] for row in grid.printable().body]
    assert rendered_tables(markdown([grid, grid])) == [[grid.header, *plain]] * 2


def test_markdown_of_a_study_is_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(ROOT / "results" / "digits"), "--format", "md"]) == 0
    [table] = rendered_tables(capsys.readouterr().out)
    assert table[0][0] == "method + backend"
    assert {len(row) for row in table} == {len(table[0])} != {0}
    assert len(table) > 3


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_takes_it(tmp_path: Path) -> None:
    records = [
        make_record("a", method=SIGNS, hits=correct(100, 50)),
        make_record("b", method="[x]", hits=correct(100, 60)),
    ]
    (tmp_path / "table.tex").write_text(latex([table.grid() for table in leaderboards(records)]))
    (tmp_path / "main.tex").write_text(
        "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs}"
        "\\begin{document}\\input{table.tex}\\end{document}\n"
    )
    done = subprocess.run(
        ["pdflatex", "-draftmode", "-interaction=nonstopmode", "-halt-on-error", "main.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert done.returncode == 0, done.stdout[-2000:]
