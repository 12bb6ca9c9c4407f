"""Folders of images on disk: which files, which class each is of, which of them are damaged.

Two layouts: class folders named by WordNet id (any subset of ImageNet's 1000), and a flat folder with a
`labels.csv` of the columns path,label (label: class index or WordNet id).
"""

from __future__ import annotations

import csv
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from methods.errors import UsageError

_SUFFIXES = {".jpeg", ".jpg", ".png", ".webp", ".bmp"}


@lru_cache
def class_index() -> dict[str, int]:
    """Return {WordNet id: class index} of ImageNet-1k: the position among the sorted 1000 ids."""
    from timm.data import ImageNetInfo

    return {wnid: index for index, wnid in enumerate(sorted(ImageNetInfo("imagenet-1k").label_names()))}


def list_images(root: Path) -> list[tuple[str, int]]:
    """Return (path relative to root, class index) of every image, sorted by path.

    Raises UsageError when the folder is missing, holds no images, or has class folders that are no
    ImageNet classes.
    """
    if not root.is_dir():
        raise UsageError(f"There is no data folder {root}.")
    table = root / "labels.csv"
    files = _from_table(root, table) if table.is_file() else _from_class_folders(root)
    if not files:
        raise UsageError(f"{root} holds no images (looked for {', '.join(sorted(_SUFFIXES))}).")
    return sorted(files)


def _from_class_folders(root: Path) -> list[tuple[str, int]]:
    known = class_index()
    folders = sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    unknown = [folder.name for folder in folders if folder.name not in known]
    if unknown:
        names = ", ".join(unknown[:3])
        raise UsageError(
            f"{root} has {len(unknown)} folders that are no ImageNet class (such as {names}); "
            "class folders are named by WordNet id (n01440764)."
        )
    return [
        (path.relative_to(root).as_posix(), known[folder.name])
        for folder in folders
        for path in folder.iterdir()
        if path.suffix.lower() in _SUFFIXES
    ]


def _from_table(root: Path, table: Path) -> list[tuple[str, int]]:
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{table} cannot be read as UTF-8 text ({type(error).__name__}).") from error
    files = []
    reader = csv.DictReader(text.splitlines())
    if not {"path", "label"} <= set(reader.fieldnames or ()):
        raise UsageError(f"{table} needs a header line with the columns path,label.")
    for row in reader:
        place = f"{table}, line {reader.line_num}"
        files.append((row["path"], _label(row["label"], place)))
        if not (root / row["path"]).is_file():
            raise UsageError(f"{place}: there is no file {row['path']!r}.")
    return files


def _label(text: str | None, place: str) -> int:
    """Read a class index or a WordNet id."""
    word = (text or "").strip()
    if word in class_index():
        return class_index()[word]
    if word.isascii() and word.isdecimal() and int(word) < len(class_index()):
        return int(word)
    raise UsageError(f"{place}: {word!r} is neither a class index 0..999 nor a WordNet id.")


def decode(path: Path, transform: Any) -> NDArray[np.uint8]:
    """Return a file's pixels after a timm transform, uint8 [3, H, W]."""
    from PIL import Image

    with Image.open(path) as image:
        pixels: NDArray[np.uint8] = transform(image.convert("RGB"))
    return pixels


def _readable(path: Path) -> bool:
    """Whether a file decodes to its end; JPEGs are decoded at an eighth of their size, which reads all of it."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.draft("RGB", (image.width // 8, image.height // 8))
            image.load()
    except Exception:  # decoders raise many kinds for damaged bytes; the file is named to the user
        return False
    return True


def damaged(root: Path, paths: list[str]) -> list[str]:
    """Return those of the paths that cannot be decoded."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        fine = list(pool.map(lambda path: _readable(root / path), paths))
    return [path for path, good in zip(paths, fine, strict=True) if not good]
