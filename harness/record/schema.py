"""The JSON Schema of records, for readers that are not ours: `python -m harness.record.schema` writes it.

It is made from the types of `harness/record/record.py`, with the comments above their fields as descriptions. What it
cannot say: that the key follows from the cell, and accuracies from per-image correctness.
"""

from __future__ import annotations

import ast
import inspect
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from harness.record import cells, record
from harness.record.files import write_atomically

SCHEMA_FILE = Path(__file__).with_name("record.schema.json")
_TITLE = "Record of spdfq-bench: what a finished or failed cell leaves behind"


def schema() -> dict[str, Any]:
    """Return the schema of the two kinds of records, each field with its description."""
    made = msgspec.json.schema(record.Finished | record.Failed)
    known = meanings(cells) | meanings(record)
    for name, described in made["$defs"].items():
        for field, about in described["properties"].items():
            if meaning := _of(name, field, known):
                about["description"] = meaning
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": _TITLE, **made}


def _of(name: str, field: str, known: dict[tuple[str, str], str]) -> str | None:
    """Return what a field means, looked up in its class and in `Record`, which the kinds of records are made of."""
    return known.get((name, field)) or known.get((record.Record.__name__, field))


def meanings(module: ModuleType) -> dict[tuple[str, str], str]:
    """Return {(class, field): the comment above the field} of a module."""
    source = inspect.getsource(module)
    lines = source.splitlines()
    found = {}
    for one in [each for each in ast.parse(source).body if isinstance(each, ast.ClassDef)]:
        for field in one.body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                found[one.name, field.target.id] = _comment_above(lines, field.lineno - 1)
    return found


def _comment_above(lines: list[str], place: int) -> str:
    words: list[str] = []
    while lines[place - 1].strip().startswith("#"):
        place -= 1
        words.insert(0, lines[place].strip().removeprefix("#").strip())
    return " ".join(words)


def text() -> str:
    """Return the schema file's content."""
    return json.dumps(schema(), indent=2) + "\n"


if __name__ == "__main__":
    write_atomically(SCHEMA_FILE, text().encode())
