"""Studies: results folders with what their `study.toml` says of them, so that no search ends up in a ranking."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.record.files import ABOUT, read_toml
from harness.record.record import Failed, Record
from harness.record.records import collect, load_records
from methods.errors import UsageError, unknown_name
from methods.text import printable

FILE = "study.toml"
# What a study is for, the most asked for first: methods against each other at equal budgets; a parameter's effect; a
# method with and without its parts; trials that settings were chosen from. Only the first is a ranking.
KINDS = ("comparison", "study", "ablation", "search")
_MOST_NAMED = 20


@dataclass(frozen=True, eq=False)
class Study:
    """A results folder and its records."""

    folder: Path
    # One of KINDS; a folder without a study.toml, or whose file does not say, is a comparison.
    kind: str
    # A few words; the folder's name where none are written.
    title: str
    records: list[Record]


def load_studies(folders: Sequence[Path], name: str | None = None) -> list[Study]:
    """Return the studies of results folders, naming on stderr what is not counted.

    name: what to call the folders. Raises UsageError when no cell has finished, or for a study file that is none.
    """
    found: dict[str, Record] = {}
    studies, problems = [], []
    for folder in folders:
        records = load_records([folder])
        problems += records.problems
        problems += [f"{r.key} of {folder} {problem}" for r in records.sound if (problem := collect(r, found))]
        studies.append(Study(folder, *_about(folder), records.sound))
    for problem in problems[:_MOST_NAMED]:
        print(printable(f"Not counted: {problem}."), file=sys.stderr)
    if len(problems) > _MOST_NAMED:
        more = len(problems) - _MOST_NAMED
        print(f"Not counted: {more} more records; python -m harness.check names them all.", file=sys.stderr)
    failed = sum(isinstance(record, Failed) for record in found.values())
    if failed:
        print(f"{failed} failed cells are not in the tables.", file=sys.stderr)
    if len(found) == failed:
        raise UsageError(f"There are no records of finished cells under {name or ', '.join(map(str, folders))}.")
    return studies


def _about(folder: Path) -> tuple[str, str]:
    """Return a study's kind and title."""
    path = folder / FILE
    told = read_toml(path, "study file") if path.is_file() else {}
    kind, title = (told.get(name, default) for name, default in zip(ABOUT, (KINDS[0], folder.name), strict=True))
    if kind not in KINDS:
        raise unknown_name(f"kind of study in {path}", str(kind), KINDS)
    return kind, str(title)


def merged(studies: Sequence[Study]) -> list[Record]:
    """Return the records of studies, sorted by key; one that several have counts once, a success before a failure."""
    found: dict[str, Record] = {}
    for record in (record for study in studies for record in study.records):
        collect(record, found)
    return [found[key] for key in sorted(found)]
