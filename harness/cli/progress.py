"""A progress bar for one piece of work, on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from methods.contracts import Report, silent


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
