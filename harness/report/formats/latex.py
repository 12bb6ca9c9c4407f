"""Grids as LaTeX that compiles with the `booktabs` package alone: `python -m harness.leaderboard --format latex`."""

from __future__ import annotations

from collections.abc import Sequence

from harness.report.formats import Format
from harness.report.report import Report
from harness.report.text_table import Grid, Word

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "†": r"\textdagger{}",
    "‡": r"\textdaggerdbl{}",
    "×": r"$\times$",
}


class LatexFormat(Format):
    """Tables for a paper."""

    def files(self, report: Report) -> dict[str, str | bytes]:
        """Return the tables as one text."""
        return {f"{report.stem}.tex": latex(report.grids())}


def latex(grids: Sequence[Grid]) -> str:
    """Return grids as tables for a document with `\\usepackage[T1]{fontenc}` and `\\usepackage{booktabs}`."""
    head = "% needs \\usepackage[T1]{fontenc} and \\usepackage{booktabs}\n"
    return head + "\n".join(_table(grid.printable()) for grid in grids)


def _table(grid: Grid) -> str:
    columns = "l" * grid.labels + "r" * (len(grid.header) - grid.labels)
    lines = [
        "\\begin{table}",
        f"\\caption{{{escape(grid.title)}}}",
        f"\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
        _row([escape(title) for title in grid.header]),
        "\\midrule",
        *(_row([_word(word) for word in row]) for row in grid.body),
        "\\bottomrule",
        "\\end{tabular}",
        *(f"\\par\\footnotesize {escape(note)}" for note in grid.notes),
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _row(words: list[str]) -> str:
    # A row that opens with "[" would otherwise be read as the optional argument of the \\ before it.
    return " & ".join(f"{{}}{word}" if word.startswith(("[", "*")) else word for word in words) + r" \\"


def _word(word: Word) -> str:
    text = escape(word.text)
    return (f"\\textbf{{{text}}}" if word.strong else text) + escape(word.mark)


def escape(text: str) -> str:
    """Return a text that LaTeX prints as it stands; signs beyond ASCII it may have no glyph for become "?"."""
    plain = "".join(_SPECIAL.get(sign, sign if " " <= sign < "\x7f" else "?") for sign in " ".join(text.split()))
    return plain.replace("--", "-{}-").replace("''", "'{}'").replace("``", "`{}`")
