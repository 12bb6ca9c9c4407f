"""One parquet file of images as Hugging Face writes it, read a row group at a time (a hundred images, as a rule)."""

from __future__ import annotations

import json
from functools import cached_property, lru_cache
from io import BytesIO
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO

from methods.errors import UsageError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_IMAGES, _LABELS = ("image", "img", "jpg"), ("label", "labels", "cls", "target")


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
            raise UsageError(f"{path} has no column {' or '.join(_IMAGES)}, only {', '.join(columns)}.")

    @cached_property
    def _file(self) -> ParquetFile:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile

        try:
            return ParquetFile(self.path)
        except (ArrowException, OSError) as error:
            why = str(error).partition(". ")[0].rstrip(".")
            raise UsageError(f"{self.path} cannot be read as a parquet file: {why}.") from error

    @cached_property
    def _starts(self) -> list[int]:
        """The first row of each row group, and the number of all rows."""
        about, starts = self._file.metadata, [0]
        for group in range(about.num_row_groups):
            starts.append(starts[-1] + about.row_group(group).num_rows)
        return starts

    def names(self) -> list[str]:
        """Return the number of each row, and the name its image had as a file."""
        paths = [row["path"] for row in self._file.read([f"{self._image}.path"]).column(0).to_pylist()]
        return [f"{row:07d} {PurePosixPath(path or '').name}".strip() for row, path in enumerate(paths)]

    def labels(self) -> list[int]:
        """Return the label of each row; raises UsageError where there is no column of whole numbers."""
        found: list[Any] = self._file.read([self._label]).column(0).to_pylist() if self._label else [None]
        if not all(isinstance(label, int) for label in found):
            raise UsageError(f"{self.path} has no column of labels that are whole numbers.")
        return found

    def class_names(self) -> list[str]:
        """Return the names of the classes if the file tells them, as those of Hugging Face do."""
        about = json.loads((self._file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        return about.get("info", {}).get("features", {}).get(self._label, {}).get("names") or []

    def open(self, row: int) -> BinaryIO:
        """Return the bytes of a row's image; raises OSError for a row without any."""
        with self._lock:  # the two row groups in memory are shared by all threads
            group = next(number for number, start in enumerate(self._starts[1:]) if row < start)
            content = self._group(group)[row - self._starts[group]]["bytes"]
        if content is None:
            raise OSError("no bytes in its row")
        return BytesIO(content)

    def _read_group(self, group: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._file.read_row_group(group, [f"{self._image}.bytes"]).column(0).to_pylist()
        return rows
