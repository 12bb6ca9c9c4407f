"""Where images lie: a folder, tar files, or parquet files. A store names its images and opens any one of them.

Why these are not timm's readers: docs/data.md.
"""

from __future__ import annotations

import os
import posixpath
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, NoReturn

from harness.inputs.images.decoding import SUFFIXES, UNREAD, open_file, read_part
from methods.errors import UsageError
from methods.text import shortened

if TYPE_CHECKING:
    from tarfile import TarFile

_LABELS = (".cls", ".json")  # what WebDataset puts beside an image


class Store(ABC):
    """Images by name, in no order."""

    root: Path
    """The folder or file that a user named."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of all images: paths in the store, with "/"."""

    @abstractmethod
    def size(self, name: str) -> int:
        """Return the bytes of an image, or of what holds it."""

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """Open an image; threads may call it at once; raises OSError where it cannot be read."""


class FolderStore(Store):
    """Files under a folder: nothing that begins with a dot, links are followed, no folder is looked at twice."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """Return the images' paths; a link that leads nowhere is one, so that it can be named as damaged.

        Raises UsageError for a folder that cannot be read, or that is a link to nothing.
        """
        seen: set[tuple[int, int]] = set()
        found = []
        for folder, inner, files in os.walk(self.root, followlinks=True, onerror=_unreadable):
            about = Path(folder).stat()
            if (about.st_dev, about.st_ino) in seen:
                inner.clear()
                continue
            seen.add((about.st_dev, about.st_ino))
            inner[:] = sorted(name for name in inner if is_visible(name))
            place = Path(folder).relative_to(self.root)
            _refuse_lost(Path(folder), files)
            found += [(place / name).as_posix() for name in files if is_image(name)]
        return found

    def size(self, name: str) -> int:
        """Return the file's size."""
        return (self.root / name).stat().st_size

    def open(self, name: str) -> BinaryIO:
        """Open the file."""
        return open_file(self.root / name)


def _unreadable(error: OSError) -> NoReturn:
    raise UsageError(f"The folder {error.filename} cannot be read: {error.strerror}.") from error


def _refuse_lost(folder: Path, names: list[str]) -> None:
    for name in names:
        path = folder / name
        if "." not in name and path.is_symlink() and not path.exists():
            raise UsageError(f"The class folder {path} is a link to something that is not there.")


class Part(NamedTuple):
    """A piece of a file."""

    path: Path
    offset: int
    size: int


class TarStore(Store):
    """Members of tar files, and of tar files in them; several files, and those inside, give their names as folders."""

    def __init__(self, root: Path, tars: list[Path]) -> None:
        self.root = root
        self._parts: dict[str, Part] = {}
        self._beside: dict[str, Part] = {}
        for tar in tars:
            self._add(tar, prefix=tar.stem if len(tars) > 1 else "")

    def _add(self, path: Path, prefix: str) -> None:
        import tarfile

        try:
            with tarfile.open(path, "r:") as tar:
                self._add_members(tar, path, prefix, 0)
        except (tarfile.TarError, OSError) as error:
            raise UsageError(f"{path} cannot be read as a tar file, which must not be compressed: {error}.") from error

    def _add_members(self, tar: TarFile, path: Path, prefix: str, start: int) -> None:
        import tarfile

        for member in tar:
            name = posixpath.normpath(posixpath.join(prefix, member.name))
            stem, suffix = posixpath.splitext(name)
            part = Part(path, start + member.offset_data, member.size)
            if member.size < 0:  # the next member would be this one again, for ever
                raise UsageError(f"{path} cannot be read as a tar file: {shortened(name)!r} has a size below 0.")
            if not member.isfile() or not all(map(is_visible, name.split("/"))):
                continue
            if suffix.lower() == ".tar":
                with tarfile.open(fileobj=tar.extractfile(member), mode="r:") as inner:
                    self._add_members(inner, path, stem, part.offset)
            elif suffix.lower() in _LABELS:
                self._beside[name] = part
            elif is_image(name):
                self._parts[name] = part
            vars(tar)["members"].clear()  # else all headers stay in memory

    def names(self) -> list[str]:
        """Return the images' paths in their tar file."""
        return list(self._parts)

    def size(self, name: str) -> int:
        """Return the member's size."""
        return self._parts[name].size

    def open(self, name: str) -> BinaryIO:
        """Read the member."""
        return read_part(*self._parts[name])

    def beside(self, name: str) -> bytes | None:
        """Return what lies beside an image in WebDataset's way, named as it is but for the suffix."""
        stem = posixpath.splitext(name)[0]
        part = next((self._beside[stem + suffix] for suffix in _LABELS if stem + suffix in self._beside), None)
        return read_part(*part).read() if part else None

    @property
    def is_webdataset(self) -> bool:
        """Whether labels lie beside images."""
        stems = {posixpath.splitext(name)[0] for name in self._beside}
        return any(posixpath.splitext(name)[0] in stems for name in self._parts)


class ParquetStore(Store):
    """Rows of parquet files as Hugging Face writes them: a column of images (bytes and path) and one of labels."""

    def __init__(self, root: Path, shards: list[Path]) -> None:
        from harness.inputs.images.parquet import Rows

        self.root = root
        self.rows = {shard.stem: Rows(shard) for shard in shards}

    def names(self) -> list[str]:
        """Return shard, number of the row, and the name the image had as a file."""
        return [f"{shard}/{name}" for shard, rows in self.rows.items() for name in rows.names()]

    def size(self, name: str) -> int:
        """Return the size of the shard: that of the image alone is known only to who reads it."""
        return self.rows[name.partition("/")[0]].size

    def open(self, name: str) -> BinaryIO:
        """Read the row."""
        shard, _, row = name.partition("/")
        return self.rows[shard].open(int(row.partition(" ")[0]))

    def class_names(self) -> list[str]:
        """Return the names of the classes, in the order of the labels, if the files tell them."""
        return next(iter(self.rows.values())).class_names()

    def labels(self) -> dict[str, int]:
        """Return the label of each image by its name."""
        return {
            f"{shard}/{name}": label
            for shard, rows in self.rows.items()
            for name, label in zip(rows.names(), rows.labels(), strict=True)
        }


def is_visible(name: str) -> bool:
    """Whether a name is none of those that systems and editors hide or leave behind."""
    return not name.startswith(".") and name not in {"__MACOSX", "@eaDir"}


def is_image(name: str) -> bool:
    """Whether a name is that of an image, decoded here or not."""
    return is_visible(posixpath.basename(name)) and posixpath.splitext(name)[1].lower() in (*SUFFIXES, *UNREAD)
