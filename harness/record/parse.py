"""From a text to a sound record, the one way all readers take."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import msgspec
from msgspec import Raw

from harness.record.cells import read_word
from harness.record.record import Failed, Finished, Operation, Record
from harness.record.seal import is_intact
from harness.record.validation import problem

Operations = tuple[Operation, ...]
_LONGEST = 200

# A finished record whose list of operations is left as text: few lists are distinct, and each is read once.
_Text = msgspec.defstruct(
    "_Text", [("quantized_ops", Raw)], bases=(Finished,), frozen=True, kw_only=True, tag_field="status", tag="ok"
)
_records = msgspec.json.Decoder(_Text | Failed, dec_hook=read_word)
_operations = msgspec.json.Decoder(Operations)


class UnsoundRecord(ValueError):
    """A text that is no sound record; says why in words that follow the record's name."""


def parse(content: bytes, lists: Mapping[str, Operations] | None = None) -> Record:
    """Return the record a text holds; raises UnsoundRecord.

    lists: of quantized operations, by the checksums that packed records have in their place.
    """
    try:
        record: Record = _records.decode(content)
        if isinstance(record, Finished):
            held = msgspec.structs.asdict(record)
            record = Finished(**held | {"quantized_ops": _listed(bytes(held["quantized_ops"]), lists or {})})
    except msgspec.ValidationError as error:
        raise UnsoundRecord(f"is no record: {_brief(str(error))}") from error
    except (ValueError, RecursionError, msgspec.DecodeError) as error:
        raise UnsoundRecord("is not readable JSON") from error
    intact = is_intact(content)
    if intact is False or (intact is None and record.sha256 is not None):
        raise UnsoundRecord("was changed since it was written: its sha256 does not fit")
    if found := problem(record):
        raise UnsoundRecord(found)
    return record


def _listed(text: bytes, lists: Mapping[str, Operations]) -> Operations:
    if not text.startswith(b'"'):
        return operations_of(text)
    try:
        return lists[text.decode().strip('"')]
    except KeyError as error:
        raise msgspec.ValidationError("its list of operations is not beside it - at `$.quantized_ops`") from error


@lru_cache(maxsize=4096)
def operations_of(text: bytes) -> Operations:
    """Return the quantized operations a JSON list holds; raises msgspec.DecodeError."""
    return _operations.decode(text)


def _brief(message: str) -> str:
    """Shorten a message that quotes a long value."""
    return message if len(message) <= _LONGEST else f"{message[:80]} ... {message[-100:]}"
