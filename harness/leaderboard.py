"""Turn records into leaderboards: `python -m harness.leaderboard [RESULTS ...]`.

Reads the records under each results folder (default: results) and prints the tables, or writes them as
Markdown and CSV. Needs no torch.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.files import check_writable, write_atomically
from methods.errors import UsageError

_EXAMPLES = """examples:
  python -m harness.leaderboard
  python -m harness.leaderboard results/digits results/deit_t
  python -m harness.leaderboard results/digits --format md
  python -m harness.leaderboard results/digits --format all --out results/digits
"""


def main(words: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 after a sentence on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.leaderboard",
        description="Turn records into leaderboards.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", nargs="*", type=Path, default=[Path("results")], help="results folders")
    parser.add_argument("--format", choices=("console", "md", "csv", "all"), default="console")
    parser.add_argument("--out", type=Path, help="folder to write leaderboard.md / leaderboard.csv into")
    arguments = parser.parse_args(words)
    try:
        report(arguments.results, arguments.format, arguments.out)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def report(folders: list[Path], form: str, out: Path | None) -> None:
    """Print or write the leaderboards of some results folders; raises UsageError when there is no record."""
    from rich.console import Console

    from harness.records import load_records
    from harness.render import csv, markdown, print_table
    from harness.tables import leaderboards

    records = load_records(folders)
    for problem in records.problems:
        print(f"Not counted: {problem}.", file=sys.stderr)
    failed = sum(record["status"] == "failed" for record in records.sound)
    if failed:
        print(f"{failed} failed cells are not in the tables.", file=sys.stderr)
    if len(records.sound) == failed:
        raise UsageError(f"There are no records of finished cells under {', '.join(map(str, folders))}.")
    if out is not None:
        check_writable(out)
    texts = {
        "md": lambda: markdown(leaderboards(records.sound)),
        "csv": lambda: csv(records.sound),
    }
    if form in ("console", "all"):
        for table in leaderboards(records.sound):
            print_table(table, Console())
    for name in ("md", "csv"):
        if form not in (name, "all"):
            continue
        if out is not None:
            write_atomically(out / f"leaderboard.{name}", texts[name]().encode())
        elif form == name:
            print(texts[name](), end="")


if __name__ == "__main__":
    sys.exit(main())
