"""LaTeX tables: exact text, and that a LaTeX there is takes them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from harness_kit import correct, make_record

from harness.report.formats.latex import escape, latex
from harness.report.tables import leaderboards

HOSTILE = "a_b&c%d$e#f{g}h~i^j\\k<l>m|n\"o±p†q–r--s''t``u\nv[w]*"


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


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_takes_it(tmp_path: Path) -> None:
    records = [
        make_record("a", method=HOSTILE, hits=correct(100, 50)),
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
