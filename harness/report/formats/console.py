"""Print grids to a terminal, or as plain text where the output goes into a file or another program."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace

import rich.table
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape

from harness.report.formats import Format
from harness.report.report import Report
from harness.report.tables import Table
from harness.report.text_table import Grid, Word

_LABEL = 14


def print_table(table: Table | Grid, console: Console) -> None:
    """Print a table, the best of each column in bold; what is too wide for a terminal goes on below.

    Where there is no terminal nothing is cut; there, and on one that knows no bold (TERM=dumb), a star stands for it.
    """
    grid = (table.grid() if isinstance(table, Table) else table).printable()
    width = console.width
    if console.color_system is None:
        grid = _plain(grid)
    if not console.is_terminal:
        console.width = width if "COLUMNS" in os.environ else max(width, _natural_width(grid))
    try:
        parts = _parts(grid, console.width)
        for place, columns in enumerate(parts, 1):
            number = f" ({place} of {len(parts)})" if len(parts) > 1 else ""
            _print_part(grid, columns, number, place == len(parts), console)
    finally:
        console.width = width


def _plain(grid: Grid) -> Grid:
    """Return the grid with a star in front of what is bold on a terminal."""
    body = [[replace(word, text=f"*{word.text}") if word.strong else word for word in row] for row in grid.body]
    return replace(grid, body=body, notes=[re.sub(r"\bBold\b", "*", note, count=1) for note in grid.notes])


def _natural_width(grid: Grid) -> int:
    """Return how many signs a line needs for nothing to be folded or cut."""
    rows = [[cell_len(word.text + word.mark) for word in row] for row in grid.body]
    widths: list[int] = [max(column) for column in zip(*rows, map(cell_len, grid.header), strict=True)]
    return sum(width + 3 for width in widths) + 1


def _parts(grid: Grid, width: int) -> list[list[int]]:
    """Divide the columns of figures so that each part fits the width beside the labels, no figure cut."""
    room = width - 1 - grid.labels * (_LABEL + 3)
    parts: list[list[int]] = [[]]
    left = room
    for place in range(grid.labels, len(grid.header)):
        words = [row[place].text + row[place].mark for row in grid.body]
        needed = max(map(cell_len, [*grid.header[place].split(), *words])) + 3
        if needed > left and parts[-1]:
            parts.append([])
            left = room
        parts[-1].append(place)
        left -= needed
    return parts


def _print_part(grid: Grid, columns: list[int], number: str, last: bool, console: Console) -> None:
    least = min(_LABEL, (console.width - 1) // grid.labels - 3)
    drawn = rich.table.Table(
        title=escape(grid.title + number),
        caption="\n".join(map(escape, grid.notes)) if last else None,
        title_justify="left",
        caption_justify="left",
    )
    for place in range(grid.labels):
        widest = max(cell_len(text) for text in (grid.header[place], *(row[place].text for row in grid.body)))
        drawn.add_column(escape(grid.header[place]), overflow="fold", min_width=min(least, widest))
    for place in columns:
        words = [row[place].text + row[place].mark for row in grid.body]
        least = max(map(cell_len, [*grid.header[place].split(), *words]))  # a head folds between words, no figure does
        drawn.add_column(escape(grid.header[place]), justify="right", min_width=least)
    for row in grid.body:
        drawn.add_row(*(_rich(row[place]) for place in (*range(grid.labels), *columns)))
    console.print(drawn)


class ConsoleFormat(Format):
    """Tables for a terminal, or plain text where there is none."""

    in_all = False

    def files(self, report: Report) -> dict[str, str | bytes]:
        """Return the tables as one text."""
        return {f"{report.stem}.txt": console(report.grids())}


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
