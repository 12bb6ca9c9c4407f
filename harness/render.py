"""Print grids to the console, as Markdown and as CSV."""

from __future__ import annotations

import csv as csv_module
import io
from collections.abc import Sequence

import rich.table
from rich.console import Console
from rich.markup import escape

from harness.grid import Grid, Word
from harness.measurements import COLUMNS, Measurement
from harness.tables import Table


def print_table(table: Table | Grid, console: Console) -> None:
    """Print a table to a terminal, the best of each column in bold."""
    grid = table.grid() if isinstance(table, Table) else table
    drawn = rich.table.Table(
        title=escape(grid.title),
        caption="\n".join(map(escape, grid.notes)),
        title_justify="left",
        caption_justify="left",
    )
    for place, title in enumerate(grid.header):
        label = place < grid.labels
        drawn.add_column(
            escape(title),
            overflow="fold",
            justify="left" if label else "right",
            no_wrap=not label,
            min_width=14 if label else None,
        )
    for row in grid.body:
        drawn.add_row(*map(_rich, row))
    console.print(drawn)


def console(grids: Sequence[Grid]) -> str:
    """Return grids as a terminal of this width and these colours shows them."""
    screen = Console()
    with screen.capture() as captured:
        for grid in grids:
            print_table(grid, screen)
    return captured.get()


def _rich(word: Word) -> str:
    text = escape(word.text)
    return (f"[bold]{text}[/bold]" if word.strong else text) + word.mark


def markdown(grids: Sequence[Grid]) -> str:
    """Return grids as GitHub Markdown, the best of each column in bold."""
    parts = []
    for grid in grids:
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
    for sign in "\\|*`[]":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())


def csv(lines: Sequence[Measurement]) -> str:
    """Return one line per measurement, with the columns of `harness.measurements.COLUMNS` in their order."""
    text = io.StringIO()
    writer = csv_module.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(line, name) for name in COLUMNS] for line in lines)
    return text.getvalue()


def grid_csv(grids: Sequence[Grid]) -> str:
    """Return grids of the same header as one CSV, each line opening with its grid's title."""
    text = io.StringIO()
    writer = csv_module.writer(text, lineterminator="\n")
    for place, grid in enumerate(grids):
        if place == 0:
            writer.writerow(["table", *grid.header])
        writer.writerows([grid.title, *(word.text for word in row)] for row in grid.body)
    return text.getvalue()
