"""Pictures of syntheses: contact sheets committed with a study, and what its cache still holds. Needs no torch."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.record.cache import Cache, sheet_path
from harness.record.record import Record

_WIDEST = 900
_LARGEST = 60_000
_TYPES = {".webp": "webp", ".jpg": "jpeg", ".png": "png"}


@dataclass(frozen=True)
class Synthesis:
    """What is left to see of a synthesis: its sheet as a data URI, its losses per step; either may be missing."""

    key: str
    sheet: str | None
    losses: dict[str, list[float]]


@dataclass(frozen=True)
class Picture:
    """A contact sheet committed with a study: `images_METHOD_MODEL.webp` (or .jpg, .png), at most 60 kB."""

    source: str
    text: str
    width: int
    height: int


def pictures(folders: Sequence[Path]) -> list[Picture]:
    """Return the contact sheets of studies, by name; a file that is too large or no image is passed over."""
    found = []
    for folder in folders:
        for path in sorted(file for file in folder.glob("images_*") if file.suffix in _TYPES):
            if path.stat().st_size <= _LARGEST and (size := _image_size(path)):
                data = base64.b64encode(path.read_bytes()).decode()
                words = path.stem.removeprefix("images_").replace("__", ", ")
                found.append(Picture(f"data:image/{_TYPES[path.suffix]};base64,{data}", words, *size))
    return found


def _image_size(path: Path) -> tuple[int, int] | None:
    """Return width and height; None when it is no image."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return None


def find_synthesis(record: Record, folders: Sequence[Path]) -> Synthesis | None:
    """Return what is there of the synthesis a cell was quantized with, None when nothing is."""
    key = record.synthesis_key()
    for folder in folders:
        of = record.cell
        sheet = _sheet(sheet_path(folder, of.model, of.method, of.seed, key))
        losses = _losses(Cache.of(folder, "synthesis").path(key))
        if sheet or losses:
            return Synthesis(key, sheet, losses)
    return None


def _sheet(path: Path) -> str | None:
    """Return a contact sheet as a JPEG of moderate width; None when it is missing or no image."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return None
    small.thumbnail((_WIDEST, 4 * _WIDEST))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _losses(path: Path) -> dict[str, list[float]]:
    """Return the losses a cache entry's header tells; none when it is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="np") as stream:
            losses = json.loads((stream.metadata() or {})["about"])["losses"]
        return {str(name): values for name, values in losses.items() if _numbers(values)}
    except (SafetensorError, KeyError, OSError, ValueError, TypeError, AttributeError):
        return {}


def _numbers(values: Any) -> bool:
    """Whether this is a list of at least two finite numbers."""
    return (
        isinstance(values, list)
        and len(values) > 1
        and all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    )
