"""What changed between two sets of results: `python -m harness.compare A B [--fail-under POINTS]`.

A and B are results folders, or git revisions (then of `results/`). Rows both have are compared on the same images and
seeds by the paired test; exit code 1 when one regressed, so that CI can stop on it.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.command import run_command
from methods.errors import UsageError

if TYPE_CHECKING:
    from harness.grid import Grid
    from harness.measurements import Measurement
    from harness.statistics import Paired

_EXAMPLES = """examples:
  python -m harness.compare results/digits new_results
  python -m harness.compare main HEAD
  python -m harness.compare v1.0:results/digits results/digits --fail-under 1.0
"""
# What must be the same for two rows to be one thing measured twice; versions and commits are what may change.
SAME = ("data", "n", "data_sha256", "model", "bits", "weights_sha256", "method", "backend", "overrides", "calibration")


@dataclass(frozen=True)
class Change:
    """A row of both results: what it is, its test (B - A), p corrected for all rows, and the verdict."""

    name: str
    result: Paired
    p_holm: float
    verdict: str


def parser() -> argparse.ArgumentParser:
    """Return the command's parser; building it imports nothing heavy."""
    result = argparse.ArgumentParser(
        prog="python -m harness.compare",
        description="Compare two sets of results on the same images; exit code 1 when something regressed.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
    return run_command(lambda: _compare(arguments))


def _compare(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from harness.render import print_table

    before, after = _rows(arguments.a), _rows(arguments.b)
    found = changes(before, after, arguments.fail_under)
    only = [f"{len(rows)} only in {name}" for name, rows in _alone(arguments, before, after) if rows]
    if not found:
        raise UsageError(f"{arguments.a} and {arguments.b} have no row with per-image correctness in common.")
    console = Console()
    print_table(_grid(found, arguments), console)
    counts = [f"{sum(c.verdict == verdict for c in found)} {verdict}" for verdict in VERDICTS]
    console.print(", ".join([*counts, *only]) + ".", highlight=False)
    return 1 if any(change.verdict == "regressed" for change in found) else 0


VERDICTS = ("improved", "regressed", "worse within --fail-under", "unchanged")
_Rows = dict[tuple[Any, ...], list["Measurement"]]


def _rows(name: str) -> _Rows:
    """Return the measurements of a folder or revision by what they measure."""
    from harness.measurements import measurements
    from harness.record.folders import load_finished, results_of

    with results_of(name) as folders:
        lines = measurements(load_finished(folders, name=name))
    rows: _Rows = {}
    for line in lines:
        rows.setdefault(tuple(getattr(line, field) for field in SAME), []).append(line)
    return {key: _newest(found) for key, found in rows.items()}


def _newest(lines: list[Measurement]) -> list[Measurement]:
    """Keep the measurements of the newest version of method and backend; older ones may still lie about."""
    versions = [tuple((len(word), word) for word in (line.method_version, line.backend_version)) for line in lines]
    return [line for line, version in zip(lines, versions, strict=True) if version == max(versions)]


def _alone(arguments: argparse.Namespace, before: _Rows, after: _Rows) -> list[tuple[str, set[tuple[Any, ...]]]]:
    return [(arguments.a, before.keys() - after.keys()), (arguments.b, after.keys() - before.keys())]


def changes(before: _Rows, after: _Rows, allowed: float) -> list[Change]:
    """Return the rows of both results, compared; those without per-image correctness or common seeds are left out."""
    from harness.statistics import holm, paired
    from harness.tables import hits_by_seed

    shared = sorted(before.keys() & after.keys(), key=str)
    tested = [(key, paired(hits_by_seed(after[key]), hits_by_seed(before[key]))) for key in shared]
    known = [(key, result) for key, result in tested if result is not None]
    adjusted = holm([result.p for _, result in known])
    return [
        Change(_name(key), result, p, _verdict(result.difference, p, allowed))
        for (key, result), p in zip(known, adjusted, strict=True)
    ]


def _name(key: tuple[Any, ...]) -> str:
    values = dict(zip(SAME, key, strict=True))
    settings = f" ({values['overrides']})" if values["overrides"] else ""
    return f"{values['data']}, {values['model']} {values['bits']}, {values['method']} + {values['backend']}{settings}"


def _verdict(difference: float, p: float, allowed: float) -> str:
    from harness.statistics import LEVEL

    if p > LEVEL or difference == 0:
        return "unchanged"
    if difference > 0:
        return "improved"
    return "regressed" if -difference > allowed else "worse within --fail-under"


def _grid(found: list[Change], arguments: argparse.Namespace) -> Grid:
    from harness.grid import Grid, Word
    from harness.pairs import p_text
    from harness.statistics import LEVEL

    body = [
        [
            Word(change.name),
            Word(f"{change.result.difference:+.2f}", change.verdict in ("improved", "regressed")),
            *map(Word, (str(change.result.only_b), str(change.result.only_a), p_text(change.p_holm), change.verdict)),
        ]
        for change in found
    ]
    notes = [
        f"McNemar's exact test on the same images and seeds, two-sided, level {100 * LEVEL:g} %, p corrected by "
        "Holm's rule for all rows. Lost and gained: images (times seeds) that only A, or only B, got right."
    ]
    header = ["row", "B - A", "lost", "gained", "p (Holm)", ""]
    return Grid(f"{arguments.b} (B) against {arguments.a} (A)", header, body, notes)


if __name__ == "__main__":
    sys.exit(main())
