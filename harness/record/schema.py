"""Records against the JSON schema, their key, seal and bits: what is wrong with one, in sentences."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from methods.errors import UsageError

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator


SCHEMA_FILE = Path(__file__).with_name("record.schema.json")


def problems_of(path: Path, seen: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a record; `seen` holds the sound records so far by key, and takes up this one."""
    from harness.record.records import read_record

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
