"""What changed between two sets of results: `python -m harness.compare A B [--fail-under POINTS]`.

A and B are results folders, or git revisions (then of `results/`). Rows both have are compared on the same images and
seeds by the paired test; exit code 1 when one regressed, so that CI can stop on it.
"""

from __future__ import annotations

import argparse
import math
import sys

from harness.cli.command import run_command
from harness.cli.options import command_parser
from harness.report.changes import VERDICTS, changes, changes_grid, only_in_one, rows_of
from methods.errors import UsageError

_EXAMPLES = """examples:
  python -m harness.compare results/digits new_results
  python -m harness.compare main HEAD
  python -m harness.compare v1.0:results/digits results/digits --fail-under 1.0
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's parser; building it imports nothing heavy."""
    result = command_parser(
        "compare", "Compare two sets of results on the same images; exit code 1 when something regressed.", _EXAMPLES
    )
    result.add_argument("a", help="results folder or git revision: before")
    result.add_argument("b", help="results folder or git revision: after")
    result.add_argument(
        "--fail-under",
        type=_points,
        default=0.0,
        metavar="POINTS",
        help="let significant losses of at most so many points pass (default: %(default)s)",
    )
    return result


def _points(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number of points of 0 or more")
    return value


def main(words: list[str] | None = None) -> int:
    """Run the command; returns 0, 1 when a row regressed, 2 for bad input."""
    arguments = parser().parse_args(words)
    return run_command(lambda: _compare((arguments.a, arguments.b), arguments.fail_under))


def _compare(names: tuple[str, str], allowed: float) -> int:
    from rich.console import Console

    from harness.report.formats.console import print_table

    before, after = map(rows_of, names)
    found = changes(before, after, allowed)
    only = [f"{len(rows)} only in {name}" for name, rows in only_in_one(names, before, after) if rows]
    if not found:
        raise UsageError(f"{names[0]} and {names[1]} have no row with per-image correctness in common.")
    console = Console()
    told = [change for change in found if change.verdict != "unchanged"]
    if told:
        print_table(changes_grid(told, names), console)
    counts = [f"{sum(c.verdict == verdict for c in found)} {verdict}" for verdict in VERDICTS]
    console.print(", ".join([*counts, *only]) + ".", highlight=False)
    return 1 if any(change.verdict == "regressed" for change in found) else 0


if __name__ == "__main__":
    sys.exit(main())
