"""Folders of images on disk: which files, which class each is of, which of them are damaged.

Two layouts: class folders named by class (any subset of the model's classes: WordNet ids for ImageNet's 1000), and a
flat folder with a `labels.csv` of the columns path,label (label: class index or class name).
"""

from __future__ import annotations

import csv
import os
import stat
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from methods.errors import UsageError
from methods.text import shortened

if TYPE_CHECKING:
    from PIL.Image import Image

_SUFFIXES = {".jpeg", ".jpg", ".png", ".webp", ".bmp"}
_MOST_PIXELS = 1 << 26  # ImageNet's largest image has 61 million; more are minutes of decoding and gigabytes
_MOST_RATIO = 256  # of the sides; the shorter is resized to about 256 pixels, and the longer grows with it


@lru_cache
def class_index() -> dict[str, int]:
    """Return {WordNet id: class index} of ImageNet-1k: the position among the sorted 1000 ids."""
    from timm.data import ImageNetInfo

    return {wnid: index for index, wnid in enumerate(sorted(ImageNetInfo("imagenet-1k").label_names()))}


def list_images(root: Path, names: tuple[str, ...] | None = None) -> list[tuple[str, int]]:
    """Return (path relative to root, class index) of every image, sorted by path.

    names: of the classes, by index; None: ImageNet-1k's. Raises UsageError when the folder is missing, holds no
    images, or has class folders that bear no class's name.
    """
    if not root.is_dir():
        raise UsageError(f"There is no data folder {root}.")
    table = root / "labels.csv"
    known = class_index() if names is None else {name: index for index, name in enumerate(names)}
    files = _from_table(root, table, known) if table.is_file() else _from_class_folders(root, known)
    if not files:
        raise UsageError(f"{root} holds no images (looked for {', '.join(sorted(_SUFFIXES))}).")
    return sorted(files)


def folder_names(root: Path) -> tuple[str, ...]:
    """Return the names of the visible folders in a folder, sorted, none where there is no such folder."""
    return tuple(sorted(child.name for child in root.iterdir() if _is_folder(child))) if root.is_dir() else ()


def _from_class_folders(root: Path, known: Mapping[str, int]) -> list[tuple[str, int]]:
    folders = [root / name for name in folder_names(root)]
    unknown = [folder.name for folder in folders if folder.name not in known]
    if unknown:
        names = ", ".join(unknown[:3])
        if known is class_index():
            raise UsageError(
                f"{root} has {len(unknown)} folders that are no ImageNet class (such as {names}); "
                "class folders are named by WordNet id (n01440764)."
            )
        raise UsageError(
            f"{root} has {len(unknown)} folders that are no class of the model (such as {names}); "
            f"its classes are {shortened(', '.join(known), 80)}."
        )
    return [
        (path.relative_to(root).as_posix(), known[folder.name])
        for folder in folders
        for path in folder.iterdir()
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")  # macOS leaves a ._x.JPEG for each
    ]


def _is_folder(path: Path) -> bool:
    """Whether a path is a visible folder; raises UsageError for a class folder that leads nowhere."""
    if path.is_symlink() and path.name in class_index() and not path.exists():
        raise UsageError(f"The class folder {path} is a link to something that is not there.")
    return path.is_dir() and not path.name.startswith(".")


def _from_table(root: Path, table: Path, known: Mapping[str, int]) -> list[tuple[str, int]]:
    """Read labels.csv, each line on its own: no name spans lines, and a stray quote is blamed on its own line."""
    try:
        lines = table.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{table} cannot be read as UTF-8 text ({type(error).__name__}).") from error
    header = _fields(lines[0], f"{table}, line 1")
    if not {"path", "label"} <= set(header):
        raise UsageError(f"{table} needs a header line with the columns path,label.")
    files = []
    for number, line in enumerate(lines[1:], start=2):
        place = f"{table}, line {number}"
        if fields := _fields(line, place):
            row = dict(zip(header, fields, strict=False))
            files.append((_file(root, row.get("path"), place), _label(row.get("label"), place, known)))
    return files


def _fields(line: str, place: str) -> list[str]:
    """Return the fields of one line, none for an empty one; raises UsageError for quotes that do not close."""
    try:
        return next(csv.reader([line.rstrip("\r")], strict=True), [])
    except csv.Error as error:
        raise UsageError(f"{place} is no line of CSV: {error}.") from error


def _file(root: Path, name: str | None, place: str) -> str:
    """Return a name that stands for a file or a link in the folder; whether it decodes is seen later."""
    if not (name and _is_there(root / name)):
        raise UsageError(f"{place}: there is no file {shortened(name or '')!r}.")
    return name


def _is_there(path: Path) -> bool:
    try:
        return path.is_symlink() or path.is_file()
    except (OSError, ValueError):  # longer than names can be, or with a NUL
        return False


def _label(text: str | None, place: str, known: Mapping[str, int]) -> int:
    """Read a class index or a class name."""
    word = (text or "").strip()
    if word in known:
        return known[word]
    digits = word.lstrip("0") or word[-1:]
    if digits.isascii() and digits.isdecimal() and len(digits) < 6 and int(digits) < len(known):
        return int(digits)
    name = "a WordNet id" if known is class_index() else "a class of the model"
    raise UsageError(f"{place}: {shortened(word)!r} is neither a class index 0..{len(known) - 1} nor {name}.")


def decode(path: Path, transform: Any) -> NDArray[np.uint8]:
    """Return a file's pixels after a timm transform, uint8 [3, H, W]; raises ValueError for what it cannot show."""
    from PIL import Image

    with Image.open(path) as image:
        _refuse_giants(image)
        pixels: NDArray[np.uint8] = transform(to_rgb(image))
    return pixels


def to_rgb(image: Image) -> Image:
    """Return an image as RGB of 8 bits, as torchvision's loader does (`convert("RGB")`: no alpha, palettes looked up).

    Pillow clips 16-bit greys to white; they are scaled to 8 bits instead, rounded (65535 is 255). Raises ValueError
    for modes whose range no file tells (I and F: 32 bits) or that have no way to RGB.
    """
    from PIL import Image as pillow

    if image.mode.startswith("I;16"):
        greys = np.asarray(image).astype(np.uint32)
        return pillow.fromarray(((greys + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in {"I", "F", "La"}:
        raise ValueError(f"pixels of Pillow's mode {image.mode} have no known range of brightness")
    return image.convert("RGB")


def _refuse_giants(image: Image) -> None:
    """Raise ValueError for sizes that would take minutes or gigabytes; only the file's head has been read so far."""
    short, long = sorted(image.size)
    if short * long > _MOST_PIXELS or long > _MOST_RATIO * short:
        raise ValueError(f"{image.width} x {image.height} pixels")


def fault(path: Path) -> str | None:
    """Return why a file cannot be decoded, None when it can: what this passes, `decode` decodes.

    JPEGs are first decoded at an eighth of their size, which reads all of the file; whatever that refuses is decoded
    as `decode` does.
    """
    for shrink in (True, False):
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                return "no regular file"
            _try(path, shrink)
        except Exception as error:  # decoders raise many kinds for damaged bytes; the file is named to the user
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        else:
            return None
    return shortened(reason or "damaged")


def _try(path: Path, shrink: bool) -> None:
    from PIL import Image

    with Image.open(path) as image:
        _refuse_giants(image)
        if shrink:
            image.draft(None, (image.width // 8, image.height // 8))
        to_rgb(image)


def damaged(root: Path, paths: list[str]) -> dict[str, str]:
    """Return {path: why} of those of the paths that cannot be decoded."""
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.filterwarnings("ignore", message="Image size")  # Pillow's, of giants, which are refused here
        found = list(pool.map(lambda path: fault(root / path), paths))
    return {path: why for path, why in zip(paths, found, strict=True) if why}
