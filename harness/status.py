"""How runs stand, asked from another terminal or machine: `python -m harness.status RESULTS [--follow]`.

What is running, done and failed, and how long it still takes. Nothing is written, and no run is disturbed: a run tells
of itself in a file (`harness.cli.run_files`), the rest is in the records.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.command import run_command
from harness.cli.options import command_parser, path
from methods.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from harness.cli.run_files import RunFile

_EXAMPLES = """examples:
  python -m harness.status results
  python -m harness.status results --follow
"""
_LOOK_SECONDS = 1.0
_SPEAK_SECONDS = 10.0
_MOST_FAILURES = 10


def parser() -> argparse.ArgumentParser:
    """Return the command's parser; building it imports nothing heavy."""
    result = command_parser(
        "status", "Tell what runs on a results folder, how far it is, and how long still.", _EXAMPLES
    )
    result.add_argument(
        "results", type=path, nargs="?", default=Path("results"), help="results folder (default: results)"
    )
    result.add_argument("--follow", action="store_true", help="go on telling until nothing runs any more")
    return result


def main(words: list[str] | None = None) -> int:
    """Run the command; returns 0, 2 for a folder that is not there, 130 when interrupted."""
    arguments = parser().parse_args(words)
    return run_command(lambda: _status(arguments.results, arguments.follow))


def _status(results: Path, follow: bool) -> int:
    from rich.console import Console

    from harness.cli.run_files import find_runs

    if not results.is_dir():
        raise UsageError(f"There is no results folder {results}.")
    console = Console()
    living, dead = find_runs(results)
    if follow and living:
        _follow(results, console)
        living, dead = find_runs(results)
    for run in living:
        _tell(run, console)
    for run in dead:
        _say(
            f"Ended before it was done, {run.now.ended} of {run.now.total} jobs done: {run.command} (started "
            f"{run.started}). The same command goes on from there.",
            console,
        )
    if not living:
        _say("Nothing runs here.", console)
    _tell_records(results, console)
    return 0


def _tell(run: RunFile, console: Console) -> None:
    from harness.cli.view import RunTable

    _say(f"{run.command} (started {run.started})", console)
    console.print(RunTable().draw(run.now, console.width))


def _follow(results: Path, console: Console) -> None:
    """Draw the runs again and again, or print a line from time to time, until none is left."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from harness.cli.run_files import find_runs
    from harness.cli.view import RunTable, counts, times
    from methods.text import printable

    table, spoke = RunTable(), 0.0
    drawn = console.is_terminal and not console.is_dumb_terminal
    with Live(console=console, transient=True, auto_refresh=False) as live:
        while living := find_runs(results)[0]:
            if drawn:
                parts = [(Text(printable(run.command)), table.draw(run.now, console.width)) for run in living]
                live.update(Group(*(part for pair in parts for part in pair)), refresh=True)
            elif time.monotonic() - spoke >= _SPEAK_SECONDS:
                spoke = time.monotonic()
                for run in living:
                    _say(f"{counts(run.now)}; {times(run.now)}", console)
            time.sleep(_LOOK_SECONDS)


def _tell_records(results: Path, console: Console) -> None:
    """Count the records and name the failures, newest last."""
    from harness.record.record import Failed
    from harness.record.records import load_records

    records = sorted(load_records([results]).sound, key=lambda record: record.provenance.time)
    failed = [record for record in records if isinstance(record, Failed)]
    newest = f", the newest of {records[-1].provenance.time[:16]} UTC" if records else ""
    _say(f"Records: {len(records) - len(failed)} cells finished, {len(failed)} failed{newest}.", console)
    for record in failed[-_MOST_FAILURES:]:
        _say(f"Failed: {record.cell.label()}: {record.error}", console)


def _say(text: str, console: Console) -> None:
    from methods.text import printable

    console.print(printable(text), markup=False, highlight=False, soft_wrap=not console.is_terminal)


if __name__ == "__main__":
    sys.exit(main())
