"""Check every record of some results: `python -m harness.check [RESULTS ...]`.

A record has to be readable, unchanged since it was written, valid against `docs/record.schema.json`, named by the key
that follows from its cell, and its accuracies have to be what its per-image correctness gives. What does not fit is
named; exit code 1 when something does not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.command import run_command
from harness.revisions import folders_with_records
from methods.errors import UsageError

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

SCHEMA_FILE = Path(__file__).parents[1] / "docs" / "record.schema.json"
_EXAMPLES = """examples:
  python -m harness.check
  python -m harness.check results/digits results/deit_t
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's parser; building it imports nothing heavy."""
    result = argparse.ArgumentParser(
        prog="python -m harness.check",
        description="Check records: schema, keys, accuracies against per-image correctness.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument(
        "results", nargs="*", type=Path, help="results folders (default: results and all folders in it with records)"
    )
    return result


def main(words: list[str] | None = None) -> int:
    """Run the command; returns 0, 1 when a record does not fit, 2 for bad input."""
    arguments = parser().parse_args(words)
    return run_command(lambda: _check(arguments.results or folders_with_records(Path("results"))))


def _check(folders: list[Path]) -> int:
    counts: Counter[str] = Counter()
    seen: dict[str, Any] = {}
    for folder in folders:
        for path in sorted((folder / "records").glob("*.json")):
            problems = list(problems_of(path, seen))
            counts["records"] += 1
            counts["problems"] += bool(problems)
            for problem in problems:
                print(f"{folder}: {problem}.")
    if not counts["records"]:
        raise UsageError(f"There are no records under {', '.join(map(str, folders))}.")
    failed = sum(record["status"] == "failed" for record in seen.values())
    print(f"{counts['records']} records checked, {counts['problems']} with problems, {failed} of failed cells.")
    return 1 if counts["problems"] else 0


def problems_of(path: Path, seen: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a record; `seen` holds the sound records so far by key, and takes up this one."""
    from harness.records import read_record

    record, problem = read_record(path)
    if problem:
        yield problem
        return
    yield from (f"{path.name} is not valid: {fault}" for fault in faults(record))
    other = seen.setdefault(record["key"], record)
    if other["status"] == record["status"] == "ok" and other["metrics"] != record["metrics"]:
        yield f"{path.name} is there twice with different figures"


def faults(record: Any) -> list[str]:
    """Return what the JSON Schema finds wrong with a record: where, and what was expected."""
    errors = sorted(_validator().iter_errors(record), key=lambda error: error.json_path)
    return [f"{error.json_path} {_brief(error.message)}" for error in errors]


@lru_cache
def _validator() -> Draft202012Validator:
    from jsonschema import Draft202012Validator

    try:
        return Draft202012Validator(json.loads(SCHEMA_FILE.read_text()))
    except OSError as error:
        raise UsageError(f"The schema {SCHEMA_FILE} is missing; run this from a checkout of the project.") from error


def _brief(message: str) -> str:
    """Shorten a message that quotes a long value."""
    return message if len(message) <= 160 else f"{message[:60]} ... {message[-90:]}"


if __name__ == "__main__":
    sys.exit(main())
