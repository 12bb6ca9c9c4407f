"""Print tables: to the console, as Markdown, and records as CSV. All from the same table objects."""

from __future__ import annotations

import rich.table
from rich.console import Console
from rich.markup import escape

from harness.records import Record
from harness.tables import Table, Value, frame


def print_table(table: Table, console: Console) -> None:
    """Print a table to a terminal, the best of each column in bold."""
    drawn = rich.table.Table(
        title=escape(table.title),
        caption="\n".join(map(escape, table.notes)),
        title_justify="left",
        caption_justify="left",
    )
    drawn.add_column("method + backend", overflow="fold")
    for column in table.columns:
        drawn.add_column(escape(column), justify="right")
    for label, values in table.rows:
        drawn.add_row(escape(label), *(_rich(value) for value in values))
    console.print(drawn)


def _rich(value: Value | None) -> str:
    if value is None:
        return "-"
    return f"[bold]{value.text()}[/bold]" if value.best else value.text()


def markdown(tables: list[Table]) -> str:
    """Return tables as GitHub Markdown, the best of each column in bold."""
    parts = []
    for table in tables:
        header = ["method + backend", *table.columns]
        lines = [_markdown_row(header), _markdown_row(["---", *["---:"] * len(table.columns)])]
        lines += [_markdown_row([label, *map(_starred, values)]) for label, values in table.rows]
        notes = "\n".join(f"- {note}" for note in table.notes)
        parts.append(f"### {table.title}\n\n" + "\n".join(lines) + f"\n\n{notes}\n")
    return "\n".join(parts)


def _markdown_row(words: list[str]) -> str:
    return "| " + " | ".join(word.replace("|", "\\|") for word in words) + " |"


def _starred(value: Value | None) -> str:
    if value is None:
        return "-"
    return f"**{value.text()}**" if value.best else value.text()


def csv(records: list[Record]) -> str:
    """Return one line per finished cell."""
    text: str = frame(records).to_csv(index=False, lineterminator="\n")
    return text
