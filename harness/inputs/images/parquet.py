"""One parquet file of images as Hugging Face writes it, read a row group at a time (a hundred images, as a rule)."""

from __future__ import annotations

import json
from functools import cached_property, lru_cache
from io import BytesIO
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO

from methods.errors import UsageError
from methods.text import shortened

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_BYTES, _PATHS = ("binary", "large_binary"), ("string", "large_string", "null")
_IMAGES, _LABELS = ("image", "img", "jpg"), ("label", "labels", "cls", "target")


def _unreadable(path: Path, error: Exception) -> UsageError:
    why = str(error).partition(". ")[0].partition("\n")[0].rstrip(".")
    return UsageError(f"{path} cannot be read as a parquet file: {shortened(why, 200)}.")


class Rows:
    """The rows of a file; raises UsageError for a file without a column of images."""

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, path.stat().st_size
        self._lock = Lock()
        self._group = lru_cache(maxsize=2)(self._read_group)
        columns = self._file.schema_arrow.names
        self._image = next((name for name in _IMAGES if name in columns), None)
        self._label = next((name for name in _LABELS if name in columns), None)
        if self._image is None:
            raise UsageError(f"{path} has no column {' or '.join(_IMAGES)}, only {shortened(', '.join(columns))}.")
        kind = self._file.schema_arrow.field(self._image).type
        parts = {kind.field(number).name: str(kind.field(number).type) for number in range(kind.num_fields)}
        if not (parts.get("bytes") in _BYTES and parts.get("path") in _PATHS):
            raise UsageError(f"{path} has a column {self._image} of {shortened(str(kind))}, not of bytes and path.")

    @cached_property
    def _file(self) -> ParquetFile:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile

        try:
            return ParquetFile(self.path)
        except (ArrowException, OSError) as error:
            raise _unreadable(self.path, error) from error

    @cached_property
    def _starts(self) -> list[int]:
        """The first row of each row group, and the number of all rows."""
        about, starts = self._file.metadata, [0]
        for group in range(about.num_row_groups):
            starts.append(starts[-1] + about.row_group(group).num_rows)
        return starts

    def names(self) -> list[str]:
        """Return the number of each row, and the name its image had as a file."""
        paths = [(row or {}).get("path") or "" for row in self._column(f"{self._image}.path")]
        return [f"{row:07d} {PurePosixPath(path).name}".strip() for row, path in enumerate(paths)]

    def labels(self) -> list[int]:
        """Return the label of each row; raises UsageError where there is no column of whole numbers."""
        found: list[Any] = self._column(self._label) if self._label else [None]
        if not all(isinstance(label, int) for label in found):
            raise UsageError(f"{self.path} has no column of labels that are whole numbers.")
        return found

    def class_names(self) -> list[str]:
        """Return the names of the classes if the file tells them, as those of Hugging Face do."""
        try:
            about: object = json.loads((self._file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        except (ValueError, RecursionError):  # somebody else's words
            return []
        for word in ("info", "features", self._label, "names"):
            about = about.get(word) if isinstance(about, dict) else None
        return about if isinstance(about, list) and all(isinstance(name, str) for name in about) else []

    def _column(self, name: str) -> list[Any]:
        """Return a column's values; raises UsageError where the file is damaged."""
        from pyarrow import ArrowException

        try:
            found: list[Any] = self._file.read([name]).column(0).to_pylist()
        except (ArrowException, OSError, ValueError) as error:
            raise _unreadable(self.path, error) from error
        return found

    def open(self, row: int) -> BinaryIO:
        """Return the bytes of a row's image; raises OSError for a row without any."""
        with self._lock:  # the two row groups in memory are shared by all threads
            group = next(number for number, start in enumerate(self._starts[1:]) if row < start)
            content = (self._group(group)[row - self._starts[group]] or {}).get("bytes")
        if content is None:
            raise OSError("no bytes in its row")
        return BytesIO(content)

    def _read_group(self, group: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._file.read_row_group(group, [f"{self._image}.bytes"]).column(0).to_pylist()
        return rows
