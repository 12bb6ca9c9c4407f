"""Image sets: images with labels in a fixed order, held in memory or on disk, and a procedural set without labels.

An image set knows its name, its size, its labels and a sha256 of what it lists (relative paths, file sizes
and labels, or pixels for sets without files); pixels come out as uint8, cut by the model's eval transform.

Dead leaves are the procedural set, on which models are compared with themselves: opaque discs with radii from a power
law fall on each other until they cover the picture. Such images share scale invariance, edges and occlusion with
natural ones (Lee, Mumford & Huang, IJCV 2001). The set is fixed, belongs to no method and takes part in no synthesis.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.inputs.images.decoding import decode
from harness.inputs.images.labels import Label
from harness.inputs.images.stores import Store
from harness.inputs.seeds import derived_seed
from harness.inputs.zoo import ModelEntry
from harness.record.cells import ImageIdentity
from harness.record.files import hash_key

if TYPE_CHECKING:
    from torch import Tensor

_LEAVES_SIZE = 224
_DISCS = 400
_RADII = (4.0, 112.0)


class ImageSet(ABC):
    """Images with labels (or None), in a fixed order."""

    name: str
    sha256: str
    labels: Sequence[Label] | None
    left_out: Mapping[str, int] = MappingProxyType({})

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def pixels(self, index: int, entry: ModelEntry) -> Tensor:
        """Return image `index` as the model's eval transform cuts it, uint8 [C, H, W]."""

    def identity(self) -> ImageIdentity:
        """Return what names this set in a cell."""
        return {"name": self.name, "n": len(self), "sha256": self.sha256}


class ArrayImages(ImageSet):
    """Images held in memory, uint8 [n, H, W, 3]."""

    def __init__(self, name: str, images: NDArray[np.uint8], labels: Sequence[Label] | None) -> None:
        self.name, self.images, self.labels = name, images, labels
        self.sha256 = hash_key([hashlib.sha256(images.tobytes()).hexdigest(), labels])

    def __len__(self) -> int:
        return len(self.images)

    def pixels(self, index: int, entry: ModelEntry) -> Tensor:
        """Return the image channels first, cut by the eval transform if it is not of the model's size."""
        import torch
        from PIL import Image

        image = self.images[index]
        if image.shape == (entry.size, entry.size, len(entry.mean)):
            return torch.from_numpy(image.transpose(2, 0, 1).copy())
        pixels: Tensor = _transform(entry)(Image.fromarray(image))
        return pixels


class StoredImages(ImageSet):
    """Images on disk with what is right for each; left_out: how many are not among them, by the reason."""

    def __init__(
        self, name: str, store: Store, files: Sequence[tuple[str, Label]], left_out: dict[str, int] | None = None
    ) -> None:
        self.name, self.store, self.files, self.left_out = name, store, list(files), left_out or {}
        self.labels = [label for _, label in files]
        self.sha256 = hash_key([[path, store.size(path), label] for path, label in files])

    def __len__(self) -> int:
        return len(self.files)

    def pixels(self, index: int, entry: ModelEntry) -> Tensor:
        """Decode, resize and crop one image by timm's eval transform with the entry's values."""
        return decode(partial(self.store.open, self.files[index][0]), _transform(entry))


@lru_cache
def _transform(entry: ModelEntry) -> Any:
    """Return timm's eval transform of an entry up to uint8 pixels (normalization comes later, in batches)."""
    from timm.data import create_transform

    cut = create_transform(
        (len(entry.mean), entry.size, entry.size),
        is_training=False,
        use_prefetcher=True,
        interpolation=entry.interpolation,
        crop_pct=entry.crop,
        crop_mode=entry.crop_mode,
    )
    return (lambda image: cut(image.convert("L"))) if len(entry.mean) == 1 else cut


def dead_leaves(count: int, size: int = _LEAVES_SIZE, stream: str = "dead leaves") -> NDArray[np.uint8]:
    """Return `count` images uint8 [count, size, size, 3], always the same; other streams give other images."""
    images = [_painted(np.random.default_rng(derived_seed(index, stream)), size) for index in range(count)]
    return np.stack(images)


def _painted(random: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Paint discs back to front; radii have density proportional to r^-3 between `_RADII`."""
    smallest, largest = _RADII
    draw = random.random(_DISCS)
    radii = (smallest**-2 - draw * (smallest**-2 - largest**-2)) ** -0.5
    centres = random.random((_DISCS, 2)) * size
    colours = random.integers(0, 256, (_DISCS, 3), dtype=np.uint8)
    image = np.broadcast_to(random.integers(0, 256, 3, dtype=np.uint8), (size, size, 3)).copy()
    for (y, x), radius, colour in zip(centres, radii, colours, strict=True):
        top, left = max(0, int(y - radius)), max(0, int(x - radius))
        rows, columns = np.ogrid[top : int(y + radius) + 2, left : int(x + radius) + 2]
        patch = image[top : int(y + radius) + 2, left : int(x + radius) + 2]
        inside = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        patch[inside[: patch.shape[0], : patch.shape[1]]] = colour
    return image
