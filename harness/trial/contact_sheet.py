"""Contact sheets: what a synthesis looks like, one PNG beside its entry in the cache.

Every image is shown in its own colours (de-normalized with the model's mean and std) with its regions outlined
and its class below; beside it, where the method kept them, an attention prior and the attention it reached.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.inputs.zoo import IMAGENET, ModelEntry

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

_COLUMNS = 4
_TILE = 160
_GAP = 6
_CAPTION = 16
_OUTLINE = (255, 64, 64)
_PANELS = ("attention_prior", "attention_reached")


def contact_sheet(entry: ModelEntry, tensors: dict[str, Tensor], title: str = "") -> bytes:
    """Return the PNG of a synthesis, with its title in the file's metadata.

    tensors: `images` [n, C, H, W], and where present `labels` [n, ...], `regions` [r, 4] (image, top, left, side),
    `attention_prior` and `attention_reached` [n, rows, columns].
    """
    from PIL import Image, ImageDraw
    from PIL.PngImagePlugin import PngInfo

    panels = [name for name in _PANELS if name in tensors]
    width = (_TILE + _GAP) * (1 + len(panels))
    height = _TILE + _CAPTION + _GAP
    count = len(tensors["images"])
    columns = min(count, _COLUMNS)
    sheet = Image.new("RGB", (columns * width, -(-count // columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    names = class_names(entry)
    for index in range(count):
        left, top = index % columns * width, index // columns * height
        sheet.paste(_picture(entry, tensors["images"][index]), (left, top))
        for region in _regions(tensors, index):
            draw.rectangle(_box(region, entry, left, top), outline=_OUTLINE, width=2)
        for place, name in enumerate(panels, start=1):
            sheet.paste(_heat(tensors[name][index]), (left + place * (_TILE + _GAP), top))
        if "labels" in tensors:
            draw.text((left + 2, top + _TILE + 2), names[int(tensors["labels"][index])][:40], fill="black")
    stream = io.BytesIO()
    about = PngInfo()
    about.add_text("Title", title)
    sheet.save(stream, format="PNG", pnginfo=about)
    return stream.getvalue()


def class_names(entry: ModelEntry) -> Sequence[str]:
    """Return a name for every class of a model."""
    if entry.task != IMAGENET:
        return entry.class_names or [str(index) for index in range(entry.classes)]
    from timm.data import ImageNetInfo

    names: list[str] = ImageNetInfo("imagenet-1k").label_descriptions()
    return names


def denormalized(entry: ModelEntry, image: Tensor) -> NDArray[np.uint8]:
    """Return a normalized image [C, H, W] as uint8 pixels [H, W, 3], grey or coloured; values outside [0, 1] are
    clipped, NaN is black."""
    mean, std = np.array(entry.mean), np.array(entry.std)
    pixels = image.numpy().transpose(1, 2, 0) * std + mean
    result: NDArray[np.uint8] = np.round(np.nan_to_num(pixels.clip(0, 1)) * 255).astype(np.uint8)
    return result.repeat(3, axis=-1) if len(mean) == 1 else result


def _picture(entry: ModelEntry, image: Tensor) -> Image.Image:
    from PIL import Image

    return Image.fromarray(denormalized(entry, image)).resize((_TILE, _TILE), Image.Resampling.BICUBIC)


def _heat(values: Tensor) -> Image.Image:
    """Return a map [rows, columns] as a grey picture, its largest value white."""
    from PIL import Image

    scaled = (values / values.max().clamp(min=1e-12) * 255).round().to("cpu").numpy().astype(np.uint8)
    return Image.fromarray(scaled).resize((_TILE, _TILE), Image.Resampling.NEAREST).convert("RGB")


def _regions(tensors: dict[str, Tensor], index: int) -> list[list[int]]:
    regions = tensors["regions"].tolist() if "regions" in tensors else []
    return [region[1:] for region in regions if region[0] == index]


def _box(region: list[int], entry: ModelEntry, left: int, top: int) -> tuple[float, float, float, float]:
    """Return a region's outline on the sheet."""
    y, x, side = (value * _TILE / entry.size for value in region)
    return left + x, top + y, left + x + side - 1, top + y + side - 1
