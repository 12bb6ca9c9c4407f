"""What lies beside the records of a study: contact sheets that were committed with it, what its cache still holds of
syntheses, and what quantizing each layer alone does. Needs no torch.
"""

from __future__ import annotations

import base64
import io
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from harness.record.cache import Cache, sheet_path
from harness.record.record import Record
from methods.text import file_stem, printable

if TYPE_CHECKING:
    from PIL import Image

_WIDEST = 900
LARGEST = 45_000
PREFIX = "images_"
_LAYERS = "layers_"
# Per weighted term of a loss its value at every step.
Losses: TypeAlias = dict[str, list[float]]


@dataclass(frozen=True)
class Synthesis:
    """What is left to see of a synthesis: its sheet as a data URI, its losses per step; either may be missing."""

    key: str
    sheet: str | None
    losses: Losses


@dataclass(frozen=True)
class Drawn:
    """What a committed picture says of one method's images."""

    seed: int
    settings: str
    losses: Losses


@dataclass(frozen=True)
class Picture:
    """Contact sheets of the methods side by side for one model, committed with a study.

    `images_MODEL.webp` of at most 45 kB, and `images_MODEL.json` beside it, which says whose images they are;
    `--format pictures` makes both.
    """

    model: str
    source: str
    width: int
    height: int
    # By method, in the order of the picture.
    methods: dict[str, Drawn]


def pictures(folders: Sequence[Path]) -> list[Picture]:
    """Return the pictures of studies, by name; one that is too large, damaged or undescribed is passed over."""
    paths = [path for folder in folders for path in sorted(folder.glob(f"{PREFIX}*.webp"))]
    return [found for path in paths if (found := _picture(path)) is not None]


def _picture(path: Path) -> Picture | None:
    image = opened(path) if path.stat().st_size <= LARGEST else None
    try:
        about = json.loads(path.with_suffix(".json").read_text())
        methods = {str(name): _drawn(values) for name, values in about["methods"].items()}
        model = str(about["model"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if image is None:
        return None
    return Picture(model, _uri(path.read_bytes(), "webp"), *image.size, methods)


def _drawn(values: dict[str, Any]) -> Drawn:
    losses = {str(name): found for name, found in values["losses"].items() if _numbers(found)}
    return Drawn(int(values["seed"]), str(values["settings"]), losses)


def find_synthesis(record: Record, folders: Sequence[Path]) -> Synthesis | None:
    """Return what is there of the synthesis a cell was quantized with, None when nothing is."""
    key = record.synthesis_key()
    for folder in folders:
        sheet, losses = _sheet(_sheet_of(record, folder)), _losses(Cache.of(folder, "synthesis").path(key))
        if sheet or losses:
            return Synthesis(key, sheet, losses)
    return None


def find_sheet(record: Record, folders: Sequence[Path]) -> Image.Image | None:
    """Return the contact sheet of the synthesis a cell was quantized with, None when no folder holds it."""
    found = (opened(_sheet_of(record, folder)) for folder in folders)
    return next((image for image in found if image is not None), None)


def _sheet_of(record: Record, folder: Path) -> Path:
    of = record.cell
    return sheet_path(folder, of.model, of.method, of.seed, record.synthesis_key())


def opened(path: Path) -> Image.Image | None:
    """Return an image in RGB; None when the file is missing or no image."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return None


def _sheet(path: Path) -> str | None:
    """Return a contact sheet as a JPEG of moderate width; None when it is missing or no image."""
    small = opened(path)
    if small is None:
        return None
    small.thumbnail((_WIDEST, 4 * _WIDEST))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    return _uri(stream.getvalue(), "jpeg")


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _losses(path: Path) -> Losses:
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


class LayerPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one side of one layer does where it alone is quantized; both lists: a figure per width of the report, None
    where it is not finite."""

    layer: str
    # What of the layer: `weight`, `input`, or an attention's `operands`.
    side: str
    # How many numbers are stored or, of activations, made for one image.
    values: int
    # |y^ - y|^2 / |y|^2 of the layer's output.
    errors: list[float | None]
    # Mean KL divergence of the model's distribution from the quantized one, in nats.
    kl: list[float | None]


class LayerReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `harness.sensitivity --results` measured of one model: `layers_MODEL.json` beside the records."""

    model: str
    backend: str
    # What it was calibrated and measured on, and how many.
    images: str
    count: int
    widths: list[int]
    # In the order of the model's layers.
    parts: list[LayerPart]

    def __post_init__(self) -> None:
        """Refuse a report whose parts have another number of figures than it has widths."""
        if not self.widths or any(len(self.widths) != len(each) for p in self.parts for each in (p.errors, p.kl)):
            raise ValueError("a part has not one figure per width")

    @property
    def name(self) -> str:
        """Its file's name."""
        return f"{_LAYERS}{file_stem(self.model)}.json"


def layer_reports(folders: Sequence[Path]) -> list[LayerReport]:
    """Return the layer reports of studies; what is none is named on stderr."""
    found = []
    for path in (path for folder in folders for path in sorted(folder.glob(f"{_LAYERS}*.json"))):
        try:
            found.append(msgspec.json.decode(path.read_bytes(), type=LayerReport))
        except (OSError, msgspec.DecodeError) as error:
            print(printable(f"Not shown: {path} is no layer report: {error}."), file=sys.stderr)
    return found
