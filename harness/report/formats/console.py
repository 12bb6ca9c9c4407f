"""Print grids to the console, as Markdown and as CSV."""

from __future__ import annotations

from collections.abc import Sequence

import rich.table
from rich.console import Console
from rich.markup import escape

from harness.report.tables import Table
from harness.report.text_table import Grid, Word

_LABEL = 14


def print_table(table: Table | Grid, console: Console) -> None:
    """Print a table to a terminal, the best of each column in bold; what is too wide goes on below."""
    grid = (table.grid() if isinstance(table, Table) else table).printable()
    parts = _parts(grid, console.width)
    for place, columns in enumerate(parts, 1):
        _print_part(
            grid, columns, f" ({place} of {len(parts)})" if len(parts) > 1 else "", place == len(parts), console
        )


def _parts(grid: Grid, width: int) -> list[list[int]]:
    """Divide the columns of figures so that each part fits the width beside the labels, no figure cut."""
    room = width - 1 - grid.labels * (_LABEL + 3)
    parts: list[list[int]] = [[]]
    left = room
    for place in range(grid.labels, len(grid.header)):
        words = [row[place].text + row[place].mark for row in grid.body]
        needed = max(map(len, [grid.header[place], *words])) + 3
        if needed > left and parts[-1]:
            parts.append([])
            left = room
        parts[-1].append(place)
        left -= needed
    return parts


def _print_part(grid: Grid, columns: list[int], number: str, last: bool, console: Console) -> None:
    drawn = rich.table.Table(
        title=escape(grid.title + number),
        caption="\n".join(map(escape, grid.notes)) if last else None,
        title_justify="left",
        caption_justify="left",
    )
    for place in range(grid.labels):
        drawn.add_column(escape(grid.header[place]), overflow="fold", min_width=_LABEL)
    for place in columns:
        drawn.add_column(escape(grid.header[place]), justify="right", no_wrap=True)
    for row in grid.body:
        drawn.add_row(*(_rich(row[place]) for place in (*range(grid.labels), *columns)))
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
