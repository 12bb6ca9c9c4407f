"""A table of plain text, printed to a terminal or written as Markdown: for commands whose rows are no leaderboard."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.files import write_atomically

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class PlainTable:
    """A titled table of strings; the first column is aligned left, the others right; notes stand below."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: tuple[str, ...] = ()

    def print(self, console: Console) -> None:
        """Print the table to a terminal."""
        from rich.markup import escape
        from rich.table import Table

        drawn = Table(
            title=escape(self.title),
            caption="\n".join(map(escape, self.notes)),
            title_justify="left",
            caption_justify="left",
        )
        for index, column in enumerate(self.columns):
            drawn.add_column(escape(column), justify="right" if index else "left", overflow="fold")
        for row in self.rows:
            drawn.add_row(*map(escape, row))
        console.print(drawn)

    def markdown(self) -> str:
        """Return the table as GitHub Markdown."""
        rules = ("---", *["---:"] * (len(self.columns) - 1))
        lines = [_line(row) for row in (self.columns, rules, *self.rows)]
        notes = "".join(f"- {note}\n" for note in self.notes)
        return f"### {self.title}\n\n" + "\n".join(lines) + f"\n\n{notes}"

    def write(self, path: Path) -> None:
        """Write the table as Markdown."""
        write_atomically(path, self.markdown().encode())


def _line(words: tuple[str, ...]) -> str:
    return "| " + " | ".join(word.replace("|", "\\|") for word in words) + " |"
