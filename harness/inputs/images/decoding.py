"""Image files, one at a time: decoded to RGB as torchvision's loader does, or refused with a reason."""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np

from methods.text import shortened

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff"),
    ".webp",
)
UNREAD = (".dng", ".heic", ".heif", ".jxl", ".psd", ".svg", ".tga")
"""Pictures that are not decoded: named as such, never passed over."""
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What an image may be, whatever its name says: some of the formats that Pillow knows besides start programs, such as
Ghostscript, on what they read."""
_MOST_PIXELS = 1 << 26  # ImageNet's largest image has 61 million; more are minutes of decoding and gigabytes
_MOST_RATIO = 256  # of the sides; the shorter is resized to about 256 pixels, and the longer grows with it

Opener: TypeAlias = Callable[[], BinaryIO]
"""Opens an image's bytes; raises OSError where they cannot be had."""


def open_file(path: Path) -> BinaryIO:
    """Open a regular file; raises OSError for what is none (a pipe would wait for ever)."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("no regular file")
    return path.open("rb")


def read_part(path: Path, offset: int, size: int) -> BinaryIO:
    """Return `size` bytes of a file from `offset` on, as a stream; threads may share the file."""
    with path.open("rb") as stream:
        return BytesIO(os.pread(stream.fileno(), size, offset))


def decode(opener: Opener, transform: Any) -> Tensor:
    """Return an image's pixels after a timm transform, uint8 [C, H, W]; raises ValueError for what it cannot show."""
    with opener() as stream, _opened(stream) as image:
        _refuse_giants(image)
        pixels: Tensor = transform(to_rgb(image))
    return pixels


def _opened(stream: BinaryIO) -> Image:
    from PIL import Image

    Image.init()  # knows them all; AVIF is not among them before Pillow 11.3
    return Image.open(stream, formats=[name for name in _FORMATS if name in Image.OPEN])


def to_rgb(image: Image) -> Image:
    """Return an image as RGB of 8 bits, as torchvision's loader does (`convert("RGB")`: no alpha, palettes looked up,
    the first picture of an animation).

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


def fault(opener: Opener) -> str | None:
    """Return why an image cannot be decoded, None when it can: what this passes, `decode` decodes.

    JPEGs are first decoded at an eighth of their size, which reads all of the file; whatever that refuses is decoded
    as `decode` does.
    """
    for shrink in (True, False):
        try:
            _try(opener, shrink)
        except Exception as error:  # decoders raise many kinds for damaged bytes; the file is named to the user
            reason = _reason(error)
        else:
            return None
    return shortened(reason)


def _reason(error: Exception) -> str:
    """Return what an error says, the same for all files of its kind: without their places or how much was read."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "no image"
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return re.sub(r" \(\d+ bytes not processed\)", "", words) or "damaged"


def _try(opener: Opener, shrink: bool) -> None:
    with opener() as stream, _opened(stream) as image:
        _refuse_giants(image)
        if shrink:
            image.draft(None, (image.width // 8, image.height // 8))
        to_rgb(image)


def damaged(opened: Callable[[str], BinaryIO], names: list[str]) -> dict[str, str]:
    """Return {name: why} of those of the images that cannot be decoded; opened: what opens one by its name."""
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.filterwarnings("ignore", message="Image size")  # Pillow's, of giants, which are refused here
        found = list(pool.map(lambda name: fault(partial(opened, name)), names))
    return {name: why for name, why in zip(names, found, strict=True) if why}
