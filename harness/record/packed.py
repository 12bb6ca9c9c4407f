"""Packed records: `records.jsonl`, a line per record sorted by key.

Lists of quantized operations are most of a record and few of them are distinct: each stands once, on a line of its own
above the records (in folders of before, in `operations.jsonl`), and records hold its checksum in its place.
"""

from __future__ import annotations

import hashlib
import json
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import filterfalse
from pathlib import Path
from typing import Any

import msgspec

from harness.record.files import write_atomically
from harness.record.parse import Operations, UnsoundRecord, operations_of, parse
from harness.record.record import Record
from harness.record.seal import sealed_line
from methods.errors import UsageError

RECORDS, OPERATIONS = "records.jsonl", "operations.jsonl"
_LIST = b'{"sha256":'
_MOST_BYTES = 2**30  # of a file; 20,000 records have some 200 million


def read_packed(results: Path) -> Iterator[tuple[str, Record | UnsoundRecord]]:
    """Yield every packed record under a results folder, or why it does not count, with the name of its line."""
    lists = _lists_of(results)
    for number, line in enumerate(_lines(results / RECORDS), 1):
        if _is_list(line):
            continue
        try:
            yield f"{RECORDS}, line {number},", parse(line, lists)
        except UnsoundRecord as error:
            yield f"{RECORDS}, line {number},", error


def find_packed(results: Path, key: str) -> Record | None:
    """Return the sound packed record of a key, if there is one."""
    path = results / RECORDS
    line = _by_key(path, _state(path)).get(key)
    try:
        return None if line is None else parse(line, _lists_of(results))
    except UnsoundRecord:
        return None


def pack(results: Path, written: Iterable[tuple[Record, dict[str, Any]]]) -> None:
    """Write records, each with its fields as they stand in a file, as the packed records of a results folder."""
    lists: dict[str, bytes] = {}
    lines: dict[str, bytes] = {}
    for record, fields in written:
        if "quantized_ops" in fields:
            text = json.dumps(fields["quantized_ops"], separators=(",", ":")).encode()
            checksum = hashlib.sha256(text).hexdigest()
            lists[checksum] = b'{"sha256":"%s","quantized_ops":%s}\n' % (checksum.encode(), text)
            fields = {**fields, "quantized_ops": checksum}
        lines[record.key] = sealed_line(fields)
    content = [lists[name] for name in sorted(lists)] + [lines[key] for key in sorted(lines)]
    write_atomically(results / RECORDS, b"".join(content))
    (results / OPERATIONS).unlink(missing_ok=True)


def _lines(path: Path) -> list[bytes]:
    if not path.is_file():
        return []
    if path.stat().st_size > _MOST_BYTES:
        raise UsageError(f"{path} is larger than {_MOST_BYTES // 2**30} GiB.")
    return [line for each in path.read_bytes().split(b"\n") if (line := each.removesuffix(b"\r"))]


def _is_list(line: bytes) -> bool:
    return line.startswith(_LIST)


def _state(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file does, None when there is none."""
    return (path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None


@lru_cache(maxsize=64)
def _by_key(path: Path, state: tuple[int, int] | None) -> Mapping[str, bytes]:
    """Return the lines of a file in a state by the keys they name."""
    found = {}
    for line in filterfalse(_is_list, _lines(path)):
        _, _, rest = line.partition(b'"key":"')
        found[rest.partition(b'"')[0].decode(errors="replace")] = line
    return found


def _lists_of(results: Path) -> Mapping[str, Operations]:
    """Return the lists of operations of a results folder by their checksums."""
    paths = (results / OPERATIONS, results / RECORDS)
    return ChainMap(*(_lists(path, _state(path)) for path in paths))


class _List(msgspec.Struct, frozen=True):
    sha256: str
    quantized_ops: msgspec.Raw


@lru_cache(maxsize=64)
def _lists(path: Path, state: tuple[int, int] | None) -> dict[str, Operations]:
    """Return the lists of operations of a file in a state by their checksums, but for those that fit none."""
    found = {}
    for line in filter(_is_list, _lines(path)):
        try:
            entry = msgspec.json.decode(line, type=_List)
            text = bytes(entry.quantized_ops)
            if hashlib.sha256(text).hexdigest() == entry.sha256:
                found[entry.sha256] = operations_of(text)
        except (ValueError, RecursionError):
            continue
    return found
