"""The seal: the last field of a record's text is the sha256 of the text before it.

It finds damage, it is no signature. It is that of the text with line feeds alone, so that a checkout which writes
carriage returns before them leaves records sound. Records without a seal are older.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

# The end of a record's file, and of one that is a line of others.
_SEAL = re.compile(rb',(?:\r?\n "sha256": "([0-9a-f]{64})"\r?\n}\r?\n|"sha256":"([0-9a-f]{64})"})\Z')
# A last field as long as a seal's, under whatever name: a seal that was damaged itself, not an older record.
_DAMAGED = re.compile(rb'": ?"[^"]{64}"\s*}\s*\Z')
_LONGEST = 100


def sealed(fields: dict[str, Any]) -> bytes:
    """Return the text of a record's file. NaN raises ValueError."""
    text = json.dumps(fields, indent=1, allow_nan=False).removesuffix("\n}")
    return f'{text},\n "sha256": "{_checksum(text.encode())}"\n}}\n'.encode()


def sealed_line(fields: dict[str, Any]) -> bytes:
    """Return a record as one line. NaN raises ValueError."""
    text = json.dumps(fields, separators=(",", ":"), allow_nan=False).removesuffix("}")
    return f'{text},"sha256":"{_checksum(text.encode())}"}}\n'.encode()


def is_intact(content: bytes) -> bool | None:
    """Whether a text's seal fits it; None when it has no seal at its end."""
    begin = max(0, len(content) - _LONGEST)
    seal = _SEAL.search(content, begin)
    if seal is None:
        return False if _DAMAGED.search(content, begin) else None
    text = content[: seal.start()].replace(b"\r\n", b"\n") if b"\r" in content else memoryview(content)[: seal.start()]
    return _checksum(text).encode() in seal.groups()


def _checksum(text: bytes | memoryview) -> str:
    return hashlib.sha256(text).hexdigest()
