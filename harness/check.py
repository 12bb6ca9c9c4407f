"""Check every record of some results: `python -m harness.check [RESULTS ...]`.

A record has to be readable, unchanged since it was written, of the types in `harness/record/record.py`, named by the
key that follows from its cell, and its accuracies have to be what its per-image correctness gives: what every reader
asks of a record it counts. What does not fit is named; exit code 1 when something does not.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from harness.cli.command import run_command
from harness.cli.options import command_parser
from harness.cli.options import path as path_option
from harness.record.folders import folders_with_records
from harness.record.record import Failed, Record
from harness.record.records import collect, pack_folder, read_folder
from methods.errors import UsageError
from methods.text import printable

_EXAMPLES = """examples:
  python -m harness.check
  python -m harness.check results/digits results/deit_t_8x100
  python -m harness.check --pack results/digits
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's parser; building it imports nothing heavy."""
    result = command_parser(
        "check", "Check records: schema, keys, accuracies against per-image correctness.", _EXAMPLES
    )
    result.add_argument(
        "results",
        nargs="*",
        type=path_option,
        help="results folders (default: results and all folders in it with records)",
    )
    result.add_argument(
        "--pack",
        action="store_true",
        help="put the records of each folder, if all are sound, into one records.jsonl",
    )
    return result


def main(words: list[str] | None = None) -> int:
    """Run the command; returns 0, 1 when a record does not fit, 2 for bad input."""
    arguments = parser().parse_args(words)
    work = _pack if arguments.pack else _check
    return run_command(lambda: work(arguments.results or folders_with_records(Path("results"))))


def _pack(folders: list[Path]) -> int:
    for folder in folders:
        print(printable(f"{folder}: {pack_folder(folder)} records packed."))
    return 0


def _check(folders: list[Path]) -> int:
    counts: Counter[str] = Counter()
    seen: dict[str, Record] = {}
    for folder in folders:
        for name, found in read_folder(folder):
            problem = collect(found, seen)
            counts["records"] += 1
            counts["problems"] += problem is not None
            if problem:
                print(printable(f"{folder}: {name} {problem}."))
    if not counts["records"]:
        raise UsageError(f"There are no records under {', '.join(map(str, folders))}.")
    failed = sum(isinstance(record, Failed) for record in seen.values())
    print(f"{counts['records']} records checked, {counts['problems']} with problems, {failed} of failed cells.")
    return 1 if counts["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
