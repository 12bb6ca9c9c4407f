"""Records on disk: a file per cell as a run leaves them, or packed; who reads one reads both."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness.record.files import write_atomically
from harness.record.packed import find_packed, pack, read_packed
from harness.record.parse import UnsoundRecord, parse
from harness.record.record import Finished, Record
from harness.record.seal import sealed
from methods.errors import UsageError

_MOST_BYTES = 2**24  # of one record; with 50,000 images it has some 100,000


def record_path(results: Path, key: str) -> Path:
    """Return where the record of a key lies under a results folder."""
    return results / "records" / f"{key}.json"


def write_record(results: Path, record: Record) -> None:
    """Write a record, unless it is a failure and the cell has succeeded already.

    It is read again before this returns. Raises ValueError, and writes nothing, when what it holds is no sound record
    (NaN, text that no file can hold); OSError when the disk does not give it back.
    """
    if not isinstance(record, Finished) and is_recorded(results, record.key):
        return
    path, content = record_path(results, record.key), sealed(fields(record))
    parse(content)
    write_atomically(path, content)
    if path.read_bytes() != content:
        raise OSError(f"{path.name} is not on the disk as it was written")


def fields(record: Record) -> dict[str, object]:
    """Return what is written of a record: all of it but the seal."""
    found: dict[str, object] = msgspec.to_builtins(record, enc_hook=str)
    found.pop("sha256", None)
    return found


def read_record(path: Path) -> Record:
    """Return the record of a file; raises UnsoundRecord."""
    return _read(path, path.stem)


def _read(path: Path | os.DirEntry[str], key: str) -> Record:
    try:
        if not path.is_file():
            raise UnsoundRecord("is no regular file")
        with open(path, "rb", buffering=0) as stream:  # noqa: PTH123 - a directory's entry is no Path
            if os.fstat(stream.fileno()).st_size > _MOST_BYTES:
                raise UnsoundRecord(f"is larger than {_MOST_BYTES // 2**20} MiB")
            record = parse(stream.read())
    except OSError as error:
        raise UnsoundRecord("cannot be read") from error
    if record.key != key:
        raise UnsoundRecord("does not hold the key it is named by")
    return record


def find_record(results: Path, key: str) -> Record | None:
    """Return the sound record of a key under a results folder, if there is one."""
    try:
        return read_record(record_path(results, key))
    except UnsoundRecord:
        return find_packed(results, key)


def find_records(results: Path, keys: Iterable[str]) -> list[Record]:
    """Return the sound records of some keys."""
    return [record for key in keys if (record := find_record(results, key)) is not None]


def is_recorded(results: Path, key: str) -> bool:
    """Whether a cell has a sound record of success."""
    return isinstance(find_record(results, key), Finished)


def damage(results: Path, key: str) -> str | None:
    """Return a sentence for a cell whose record is there but does not count, else None."""
    path = record_path(results, key)
    try:
        if path.exists():
            read_record(path)
    except UnsoundRecord as error:
        return f"{path.name} {error}"
    return None


@dataclass(frozen=True)
class Records:
    """The sound records of some folders, and a sentence for each text that does not count."""

    sound: list[Record]
    problems: list[str]


def load_records(folders: Iterable[Path]) -> Records:
    """Read all records under results folders, sorted by key.

    A key met twice counts once, a success before a failure; two successes that differ are named.
    """
    found: dict[str, Record] = {}
    problems = []
    with _without_collector():
        for name, record in (pair for folder in folders for pair in read_folder(folder)):
            if problem := collect(record, found):
                problems.append(f"{name} {problem}")
    return Records([found[key] for key in sorted(found)], problems)


def read_folder(folder: Path) -> Iterator[tuple[str, Record | UnsoundRecord]]:
    """Yield every record under a results folder, or why it does not count, with the name of what holds it."""
    for entry in _files(folder):
        try:
            yield entry.name, _read(entry, entry.name.removesuffix(".json"))
        except UnsoundRecord as error:
            yield entry.name, error
    yield from read_packed(folder)


def pack_folder(folder: Path) -> int:
    """Pack all records of a results folder and remove their files; returns how many there are.

    Raises UsageError, and changes nothing, when one of them does not count.
    """
    records = load_records([folder])
    if records.problems:
        raise UsageError(f"{folder} is not packed: {records.problems[0]} (python -m harness.check names all).")
    if not records.sound:
        raise UsageError(f"There are no records under {folder}.")
    pack(folder, [(record, fields(record)) for record in records.sound])
    for entry in _files(folder):
        Path(entry.path).unlink()
    if (folder / "records").is_dir() and not any((folder / "records").iterdir()):
        (folder / "records").rmdir()
    return len(records.sound)


def _files(folder: Path) -> list[os.DirEntry[str]]:
    if not (folder / "records").is_dir():
        return []
    with os.scandir(folder / "records") as entries:
        found = [entry for entry in entries if entry.name.endswith(".json") and not entry.name.startswith(".")]
    return sorted(found, key=lambda entry: entry.name)


def collect(record: Record | UnsoundRecord, found: dict[str, Record]) -> str | None:
    """Add a record to those found by key, or say why it does not count, or is not the only one of its key."""
    if isinstance(record, UnsoundRecord):
        return str(record)
    other = found.get(record.key)
    if other is None or (isinstance(record, Finished) and not isinstance(other, Finished)):
        found[record.key] = record
    elif isinstance(other, Finished) and isinstance(record, Finished) and other.metrics != record.metrics:
        return "is there twice with different figures; the first one met counts"
    return None


@contextmanager
def _without_collector() -> Iterator[None]:
    """Switch the garbage collector off: it would walk all records again and again, and none has cycles."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
