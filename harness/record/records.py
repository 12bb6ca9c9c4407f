"""Records: the JSON file a finished or failed cell leaves behind, the only source of every table."""

from __future__ import annotations

import base64
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from harness.record.files import write_atomically
from harness.record.validation import SCHEMA as SCHEMA
from harness.record.validation import record_problem, seal_problem, sealed

Record = dict[str, Any]


def record_path(results: Path, key: str) -> Path:
    """Return where the record of a key lies under a results folder."""
    return results / "records" / f"{key}.json"


def write_record(results: Path, record: Record) -> None:
    """Write a record, unless it is a failure and the cell has succeeded already."""
    path = record_path(results, record["key"])
    if record["status"] != "ok" and is_recorded(results, record["key"]):
        return
    write_atomically(path, sealed(record))


def is_recorded(results: Path, key: str) -> bool:
    """Whether a cell has a sound record of success."""
    path = record_path(results, key)
    if not path.is_file():
        return False
    record, problem = read_record(path)
    return problem is None and record["status"] == "ok"


def damage(results: Path, key: str) -> str | None:
    """Return a sentence for a cell whose record is there but does not count, else None."""
    path = record_path(results, key)
    return read_record(path)[1] if path.is_file() else None


def read_record(path: Path) -> tuple[Record, str | None]:
    """Return a record and None, or an empty one and a sentence that says why the file does not count."""
    try:
        content = path.read_bytes()
        record = orjson.loads(content)
    except (OSError, ValueError, RecursionError):
        return {}, f"{path.name} is not readable JSON"
    problem = seal_problem(content, record) or record_problem(record, path.stem)
    return ({}, f"{path.name} {problem}") if problem else (record, None)


@dataclass(frozen=True)
class Records:
    """The sound records of some folders, and a sentence for each file that does not count."""

    sound: list[Record]
    problems: list[str]


def load_records(folders: list[Path], details: bool = False) -> Records:
    """Read all records under results folders, sorted by key.

    A key met twice counts once, a success before a failure; two successes that differ are named.
    details: keep the lists of quantized operations, nine tenths of a record that tables do not show.
    """
    found: dict[str, Record] = {}
    problems = []
    with _without_collector():
        for path in (path for folder in folders for path in _files(folder)):
            record, problem = read_record(path)
            if problem is None:
                problem = _keep(record, found)
            if problem:
                problems.append(problem)
            if not details:
                record.pop("quantized_ops", None)
    return Records([found[key] for key in sorted(found)], problems)


def _files(folder: Path) -> list[Path]:
    return sorted((folder / "records").glob("*.json"), key=lambda path: path.name)


def _keep(record: Record, found: dict[str, Record]) -> str | None:
    """Add a record to those found; says so when another success of its key has other metrics."""
    other = found.get(record["key"])
    if other is None or (other["status"] != "ok" and record["status"] == "ok"):
        found[record["key"]] = record
    elif other["status"] == record["status"] == "ok" and other["metrics"] != record["metrics"]:
        return f"{record['key']}.json is there twice with different figures; the first one met counts"
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


def pack_bits(correct: list[bool]) -> str:
    """Return per-image correctness as base64 of packed bits, first image in the highest bit."""
    padded = correct + [False] * (-len(correct) % 8)
    octets = [
        sum(1 << (7 - place) for place, hit in enumerate(padded[start : start + 8]) if hit)
        for start in range(0, len(padded), 8)
    ]
    return base64.b64encode(bytes(octets)).decode()


def unpack_bits(text: str, count: int) -> list[bool]:
    """Return what `pack_bits` packed."""
    octets = base64.b64decode(text)
    return [bool(octets[place // 8] >> (7 - place % 8) & 1) for place in range(count)]
