"""Where TOML files are read: what cannot be read is one sentence."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, TypeAlias

from methods.errors import UsageError

Table: TypeAlias = dict[str, Any]
"""A TOML table: what stands in it follows from the file, so whoever reads it checks every value."""


def read_toml(path: Path, what: str) -> Table:
    """Return what a TOML file holds; raises UsageError, calling the file `what`, when it cannot be read."""
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"The {what} {path} cannot be read: {error}.") from error
