"""Results as they were: a results folder on disk, or `results/` of a git revision, unpacked for reading."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.record.packed import RECORDS
from methods.errors import UsageError


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
