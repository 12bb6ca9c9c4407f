"""The one place where files are written atomically, where keys are hashed, and where TOML is read."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import tempfile
import tomllib
from pathlib import Path
from typing import Any, TypeAlias

from methods.errors import UsageError
from methods.text import shortened

_MOST_BYTES = 256 * 1024  # of a TOML file
_MOST_DOTS = 1000  # in a key of one: tomllib takes time by their square, 13 s at 30,000
_MOST_BITS = 10_000  # of a number in one
# What a study file says of itself, beside the runs it holds (`harness.record.studies`).
ABOUT = ("kind", "title")

Table: TypeAlias = dict[str, Any]
"""A TOML table: what stands in it follows from the file, so whoever reads it checks every value."""

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN (raises ValueError)."""
    return _CANONICAL.encode(value)


def hash_key(value: Any) -> str:
    """Return the sha256 of a value's canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old content or the new one, never a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def check_writable(folder: Path) -> None:
    """Raise UsageError unless files can be made in a folder, which need not exist yet; nothing is left there."""
    place = folder.absolute()
    _require_utf8(place)
    while not place.exists():
        if place.is_symlink():
            raise UsageError(f"The folder {folder} cannot be written to: {place} is a link to what is not there.")
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place) as stream:
            stream.write(b"-")
    except OSError as error:
        raise UsageError(f"The folder {folder} cannot be written to: {error.strerror}.") from error


def user_path(text: str) -> Path:
    """Return the path that a user has written, `~` expanded: the one way from words to paths, for all options.

    Raises UsageError for the home of nobody, and for what is not UTF-8 text, the folder one stands in included:
    records could not hold it.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError(f"The path {shortened(text)!r} begins with the home of a user who is not known.") from error
    _require_utf8(path if path.is_absolute() else Path.cwd() / path)
    return path


def _require_utf8(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"The path {str(path)!r} is not UTF-8 text, as paths must be to stand in records.") from error
    if "\0" in str(path):
        raise UsageError(f"The path {str(path)!r} holds a NUL.")


def read_regular(path: Path, most: int) -> bytes:
    """Return the bytes of a regular file; raises OSError for a pipe, a device or a folder, and for one over `most`."""
    with open(path, "rb", opener=without_waiting) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        content = stream.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most // 1024} KiB")
    return content


def without_waiting(path: str, flags: int) -> int:
    """Open a file as usual, but for a pipe, which would be waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


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
        table = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    values: list[Any] = [table]
    while values:  # a hexadecimal number may be of any length, and Python prints none of over 4300 digits
        value = values.pop()
        values += value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
        if isinstance(value, int) and value.bit_length() > _MOST_BITS:
            raise ValueError("it holds a number of thousands of digits")
    return table
