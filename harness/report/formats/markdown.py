"""Markdown: tables as GitHub renders them, the best of a column in bold."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.report.formats import Format
from harness.report.report import Report
from harness.report.text_table import Grid, Word

# Signs of markup; an underscore is none inside a word.
_MARKUP = re.compile(r"[\\|*`\[\]~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


class MarkdownFormat(Format):
    """Tables as GitHub renders them."""

    def files(self, report: Report) -> dict[str, str | bytes]:
        """Return the tables as one text."""
        return {f"{report.stem}.md": markdown(report.grids())}


def markdown(grids: Sequence[Grid]) -> str:
    """Return grids as GitHub Markdown, the best of each column in bold."""
    parts = []
    for grid in (grid.printable() for grid in grids):
        rule = ["---"] * grid.labels + ["---:"] * (len(grid.header) - grid.labels)
        lines = [_markdown_row([_plain(title) for title in grid.header]), _markdown_row(rule)]
        lines += [_markdown_row([_starred(word) for word in row]) for row in grid.body]
        notes = "\n".join(f"- {_plain(note)}" for note in grid.notes)
        parts.append(f"### {_plain(grid.title)}\n\n" + "\n".join(lines) + f"\n\n{notes}\n")
    return "\n".join(parts)


def _markdown_row(words: list[str]) -> str:
    return "| " + " | ".join(words) + " |"


def _starred(word: Word) -> str:
    text = _plain(word.text)
    return (f"**{text}**" if word.strong else text) + word.mark


def _plain(text: str) -> str:
    """Escape what Markdown or HTML would take for markup, and keep a row on one line."""
    text = _MARKUP.sub(r"\\\g<0>", text)
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())
