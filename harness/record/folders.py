"""Results as they were: a results folder on disk, or `results/` of a git revision, unpacked for reading."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from harness.record.packed import RECORDS
from methods.errors import UsageError
from methods.text import printable

if TYPE_CHECKING:
    from harness.record.record import Record


@contextmanager
def results_of(name: str) -> Iterator[list[Path]]:
    """Yield the folders with records of `name`: a folder, or a git revision of the project in this directory.

    A revision may name a folder in it: `main`, `HEAD~3`, `v1.0:results/digits`. Raises UsageError when it is neither.
    """
    if Path(name).is_dir():
        yield folders_with_records(Path(name))
        return
    revision, _, inside = name.partition(":")
    with tempfile.TemporaryDirectory() as place:
        _unpack(revision, inside or "results", Path(place))
        yield folders_with_records(Path(place) / (inside or "results"))


def folders_with_records(folder: Path) -> list[Path]:
    """Return the results folders at and directly below a folder; the folder itself when there are none."""
    found = [
        path
        for path in (folder, *sorted(folder.glob("*/")))
        if (path / "records").is_dir() or (path / RECORDS).is_file()
    ]
    return found or [folder]


def _unpack(revision: str, inside: str, place: Path) -> None:
    known = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if known.returncode != 0:
        raise UsageError(f"{revision!r} is neither a folder nor a git revision.")
    packed = _git("archive", "--format=tar", known.stdout.decode().strip(), "--", inside)
    if packed.returncode != 0:
        raise UsageError(f"The git revision {revision!r} has no {inside}.")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(place, filter="data")


def _git(*words: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", *words], capture_output=True, check=False)
    except FileNotFoundError as error:
        raise UsageError("Revisions need git, which is not installed.") from error


_MOST_NAMED = 20


def load_finished(folders: list[Path], name: str | None = None) -> list[Record]:
    """Return the records under results folders, naming what is not counted on stderr.

    name: what to call the folders; raises UsageError when no cell has finished.
    """
    from harness.record.record import Failed
    from harness.record.records import load_records

    records = load_records(folders)
    for problem in records.problems[:_MOST_NAMED]:
        print(printable(f"Not counted: {problem}."), file=sys.stderr)
    if len(records.problems) > _MOST_NAMED:
        more = len(records.problems) - _MOST_NAMED
        print(f"Not counted: {more} more records; python -m harness.check names them all.", file=sys.stderr)
    failed = sum(isinstance(record, Failed) for record in records.sound)
    if failed:
        print(f"{failed} failed cells are not in the tables.", file=sys.stderr)
    if len(records.sound) == failed:
        raise UsageError(f"There are no records of finished cells under {name or ', '.join(map(str, folders))}.")
    return records.sound
