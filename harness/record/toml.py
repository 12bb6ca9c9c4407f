"""Where TOML files are read: what cannot be read is one sentence."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, TypeAlias

from harness.record.files import read_regular
from methods.errors import UsageError
from methods.text import shortened

_MOST_BYTES = 256 * 1024
_MOST_DOTS = 1000  # in a key: tomllib takes time by their square, 13 s at 30,000
# What a study file says of itself, beside the runs it holds (`harness.record.studies`).
ABOUT = ("kind", "title")

Table: TypeAlias = dict[str, Any]
"""A TOML table: what stands in it follows from the file, so whoever reads it checks every value."""


def read_toml(path: Path, what: str) -> Table:
    """Return what a TOML file in UTF-8, with or without a byte order mark, holds.

    Raises UsageError, calling the file `what`, when it cannot be read, is no regular file or is over 256 KiB.
    """
    try:
        return parse_toml(read_regular(path, _MOST_BYTES).decode("utf-8-sig"))
    except OSError as error:
        raise UsageError(f"The {what} {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UsageError(f"The {what} {path} cannot be read: {shortened(str(error), 200)}.") from error


def parse_toml(text: str) -> Table:
    """Return the table of a TOML text; raises ValueError for whatever is wrong with it, nesting too deep among it."""
    if any(part.count(".") > _MOST_DOTS for part in re.split("[=\n]", text)):
        raise ValueError(f"it has more than {_MOST_DOTS} dots in a key")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
