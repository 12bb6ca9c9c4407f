"""How a run looks on a screen: a table that is drawn anew in its place, or a line for each thing that happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from harness.cli.run_files import Row, Snapshot
from methods.contracts import Report, silent
from methods.text import printable

_WIDE, _BAR = 100, 20
_LEAST_LABEL = 16


def duration(seconds: float) -> str:
    """Return a length of time in words of two units at most."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def counts(now: Snapshot) -> str:
    """Return how many jobs have ended, failed, run and wait."""
    if not now.ended and not now.running:
        return f"{now.total} jobs, starting"
    waiting = now.total - now.ended - len(now.running)
    failed = [f"{now.failed} failed"] if now.failed else []
    return ", ".join(
        [f"{now.ended} of {now.total} jobs done", *failed, f"{len(now.running)} running", f"{waiting} left"]
    )


def times(now: Snapshot) -> str:
    """Return how long a run has taken and still takes."""
    return f"{duration(now.passed)}, about {duration(now.left)} left"


def row_line(row: Row) -> str:
    """Return a running job in one line of words."""
    steps = f" {row.step}/{row.steps}" if row.steps else ""
    return printable(f"{row.label}: {row.stage}{steps}, about {duration(row.left)} left")


class RunTable:
    """Draws a snapshot; the height never shrinks, so that what stands below it does not jump."""

    def __init__(self) -> None:
        self._rows = 0

    def draw(self, now: Snapshot, width: int) -> Table:
        """Return the table of a snapshot, no wider than the screen."""
        self._rows = max(self._rows, len(now.running))
        whole = Table.grid(expand=True)
        whole.add_column(no_wrap=True, overflow="ellipsis")
        whole.add_row(Text(counts(now), "bold"))
        whole.add_row(_progress(now))
        whole.add_row(_running(now.running, self._rows, width))
        for text in now.newest:
            whole.add_row(Text(middle_out(printable(text), width), "green"))
        return whole


class Drawn:
    """What rich draws again and again: the newest snapshot, asked for whenever it is drawn."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot, self._table = snapshot, RunTable()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._table.draw(self._snapshot(), options.max_width)


def _progress(now: Snapshot) -> Table:
    """Return the bar of the whole run, by time, and its times."""
    line = Table.grid(expand=True, padding=(0, 1))
    line.add_column(ratio=1)
    line.add_column(no_wrap=True)
    whole = now.passed + now.left
    line.add_row(ProgressBar(total=max(whole, 1e-9), completed=now.passed), Text(times(now), "cyan"))
    return line


def _running(rows: list[Row], height: int, width: int) -> Table:
    """Return a line per running job, filled up to a height; bars where the screen is wide."""
    table = Table.grid(padding=(0, 1))
    wide = width >= _WIDE
    tails = [(row.stage, f"{row.step}/{row.steps}" if row.steps else "", duration(row.left)) for row in rows]
    rest = sum(max((len(tail[place]) for tail in tails), default=0) + 1 for place in range(3))
    room = max(_LEAST_LABEL, width - rest - (_BAR + 1 if wide else 0))
    for _ in range(4 + wide):
        table.add_column(no_wrap=True)
    for row, (stage, steps, left) in zip(rows, tails, strict=True):
        bar = (
            [ProgressBar(total=row.steps or None, completed=row.step, width=_BAR, pulse=not row.steps)] if wide else []
        )
        label = Text(middle_out(printable(row.label), room))
        table.add_row(label, Text(stage, "cyan"), *bar, Text(steps), Text(left, "cyan"))
    for _ in range(height - len(rows)):
        table.add_row("")
    return table


def middle_out(text: str, width: int) -> str:
    """Return a text no longer than a width, its middle left out where it is too long."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


@contextmanager
def progress_bar(title: str, shown: bool = True) -> Iterator[Report]:
    """Show how far a piece of work has come while it runs; yields what it reports to."""
    if not shown:
        yield silent
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=None)

        def report(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        yield report
