"""Records: the JSON file a finished or failed cell leaves behind, the only source of every table."""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.files import write_atomically

SCHEMA = 1
Record = dict[str, Any]
_FIELDS = {"schema", "key", "status", "cell", "metrics", "stages", "versions", "provenance", "error"}
_CELL_FIELDS = {"model", "method", "backend", "bits", "seed", "data", "overrides"}


def record_path(results: Path, key: str) -> Path:
    """Return where the record of a key lies under a results folder."""
    return results / "records" / f"{key}.json"


def write_record(results: Path, record: Record) -> None:
    """Write a record, unless it is a failure and the cell has succeeded already."""
    path = record_path(results, record["key"])
    if record["status"] != "ok" and is_recorded(results, record["key"]):
        return
    write_atomically(path, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())


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
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}, f"{path.name} is not readable JSON"
    problem = _problem(record, path)
    return ({}, f"{path.name} {problem}") if problem else (record, None)


def _problem(record: Any, path: Path) -> str | None:
    """Say what is wrong with a record, or None."""
    if not isinstance(record, dict) or _FIELDS - set(record):
        return "lacks fields of a record"
    if record["schema"] != SCHEMA:
        return f"is of schema {record['schema']!r}, not {SCHEMA}"
    if record["key"] != path.stem:
        return "does not hold the key it is named by"
    if record["status"] not in ("ok", "failed"):
        return f"has the unknown status {record['status']!r}"
    if not all(isinstance(record.get(name, {}), dict) for name in ("stages", "provenance", "versions", "weights")):
        return "has text where its parts should be"
    if not _sound_cell(record["cell"]):
        return "holds no sound cell"
    return _metrics_problem(record["metrics"]) if record["status"] == "ok" else None


def _sound_cell(cell: Any) -> bool:
    """Whether a cell has all its fields, each of its type."""
    if not isinstance(cell, dict) or _CELL_FIELDS - set(cell):
        return False
    words = all(isinstance(cell[name], str) for name in ("model", "method", "backend", "bits"))
    data = cell["data"]
    return (
        words
        and re.fullmatch(r"w\d+a\d+", cell["bits"]) is not None
        and type(cell["seed"]) is int
        and isinstance(cell["overrides"], dict)
        and isinstance(data, dict)
        and isinstance(data.get("name"), str)
        and isinstance(data.get("sha256"), str)
    )


def _metrics_problem(metrics: Any) -> str | None:
    """Say what is wrong with the metrics of a success, or None."""
    if not isinstance(metrics, dict) or not isinstance(metrics.get("n"), int) or metrics["n"] < 1:
        return "counts no images"
    for name in ("top1", "agreement", "fp32_top1"):
        value = metrics.get(name)
        if value is None and name != "agreement":
            continue
        if not isinstance(value, int | float) or not math.isfinite(value) or not 0 <= value <= 100:
            return f"has no sound {name}"
    return None


@dataclass(frozen=True)
class Records:
    """The sound records of some folders, and a sentence for each file that does not count."""

    sound: list[Record]
    problems: list[str]


def load_records(folders: list[Path]) -> Records:
    """Read all records under results folders, sorted by key; the same key twice counts once."""
    found: dict[str, Record] = {}
    problems = []
    for folder in folders:
        for path in sorted((folder / "records").glob("*.json")):
            record, problem = read_record(path)
            if problem:
                problems.append(problem)
            elif record["key"] not in found or record["status"] == "ok":
                found[record["key"]] = record
    return Records([found[key] for key in sorted(found)], problems)


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
