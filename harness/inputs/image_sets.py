"""Image sets: the embedded digits, images on disk, and a procedural set without labels.

An image set knows its name, its size, its labels and a sha256 of what it lists (relative paths, file sizes
and labels, or pixels for sets without files); pixels come out as uint8, cut by the model's eval transform.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.inputs.dead_leaves import dead_leaves
from harness.inputs.digits import digits_split
from harness.inputs.images.decoding import damaged, decode
from harness.inputs.images.labels import WORDNET, Classes, Label
from harness.inputs.images.layouts import Found, find_images
from harness.inputs.images.stores import Store
from harness.inputs.seeds import derived_seed
from harness.inputs.zoo import IMAGENET, ModelEntry
from harness.record.cells import ImageIdentity
from harness.record.files import hash_key
from methods.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

DIGITS = "digits"
DEAD_LEAVES = "dead-leaves"
SEARCH_LEAVES = "dead-leaves-search"
DIGITS_TRAIN = "digits-train"
_STREAMS = {DEAD_LEAVES: "dead leaves", SEARCH_LEAVES: "dead leaves of searches"}
_BUILT_IN = (DIGITS, DIGITS_TRAIN, *_STREAMS)
_DEAD_LEAVES_COUNT = 256
_MOST_DEAD_LEAVES = 10_000
_MEMORY_LIMIT = 1 << 30


class ImageSet(ABC):
    """Images with labels (or None), in a fixed order."""

    name: str
    sha256: str
    labels: Sequence[Label] | None
    left_out: Mapping[str, int] = MappingProxyType({})

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def pixels(self, index: int, entry: ModelEntry) -> NDArray[np.uint8]:
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

    def pixels(self, index: int, entry: ModelEntry) -> NDArray[np.uint8]:
        """Return the image channels first, cut by the eval transform if it is not of the model's size."""
        from PIL import Image

        image = self.images[index]
        if image.shape == (entry.size, entry.size, len(entry.mean)):
            return np.ascontiguousarray(image.transpose(2, 0, 1))
        pixels: NDArray[np.uint8] = _transform(entry)(Image.fromarray(image))
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

    def pixels(self, index: int, entry: ModelEntry) -> NDArray[np.uint8]:
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


@dataclass(frozen=True)
class DataSource:
    """How to open an image set again, in any process."""

    where: str
    """A folder, a tar or parquet file, "digits", "digits-train", "dead-leaves" or "dead-leaves-search"."""
    limit: int | None = None
    """Size of a fixed, seeded, class-balanced subset, the smaller a part of the larger; None: all."""
    excluded: tuple[tuple[str, str], ...] = ()
    """Images to leave out, each with the reason."""
    labels: str | None = None
    """A label file, or "ReaL" for ImageNet's ReaL labels; None: as the layout of the place says."""
    classes: Classes = WORDNET
    """What the model tells apart."""

    @property
    def folder(self) -> Path | None:
        """The folder, or None for a built-in set."""
        return None if self.where in _BUILT_IN else Path(self.where)


def folder_of(entry: ModelEntry, where: str, limit: int | None = None, labels: str | None = None) -> DataSource:
    """Return the source of images on disk for a model, whose classes they are of."""
    classes = WORDNET if entry.task == IMAGENET else Classes(entry.classes, entry.class_names)
    return DataSource(where, limit, labels=labels, classes=classes)


@lru_cache
def open_images(source: DataSource) -> ImageSet:
    """Open an image set; raises UsageError for a place that is missing, holds no images or does not label them."""
    if source.where in _STREAMS:
        if (source.limit or 0) > _MOST_DEAD_LEAVES:
            raise UsageError(
                f"--limit {source.limit}: of the procedural images there are {_MOST_DEAD_LEAVES:,} at most."
            )
        leaves = dead_leaves(source.limit or _DEAD_LEAVES_COUNT, stream=_STREAMS[source.where])
        return ArrayImages(source.where, leaves, None)
    if source.folder is None:
        pixels, classes = digits_split(train=source.where == DIGITS_TRAIN)
        chosen = limited(classes.tolist(), source.limit)
        return ArrayImages(source.where, pixels[chosen], classes[chosen].tolist())
    found = _found(source)
    name = source.folder.name if source.labels is None else f"{source.folder.name} ({Path(source.labels).name})"
    left_out = Counter(reason for _, reason in source.excluded)
    if found.unlabelled:
        left_out[f"no label in {Path(source.labels or '').name}"] = found.unlabelled
    return StoredImages(name, found.store, _chosen(found, source), dict(left_out))


def _found(source: DataSource) -> Found:
    """Find all images at a source's place, once in a process."""
    return _find(Path(source.where), source.labels, source.classes)


_find = lru_cache(maxsize=4)(find_images)


def _chosen(found: Found, source: DataSource) -> list[tuple[str, Label]]:
    """Return (name, label) of the images that a source stands for; none of them is opened."""
    out = frozenset(name for name, _ in source.excluded)
    files = [file for file in found.files if file[0] not in out]
    if not files:
        raise UsageError(f"{source.where} holds no readable image.")
    return [files[i] for i in limited([_first(label) for _, label in files], source.limit)]


def _first(label: Label) -> int:
    return label if isinstance(label, int) else label[0]


def checked(source: DataSource, skip_bad: bool) -> DataSource:
    """Decode every image of a set on disk once, so that a run does not stumble later.

    Returns the source, without the damaged ones if `skip_bad`; else raises UsageError that names and counts
    them.
    """
    good: set[str] = set()
    while source.folder is not None:
        found = _found(source)
        files = _chosen(found, source)
        fresh = [path for path, _ in files if path not in good]
        bad = damaged(found.store.open, fresh)
        if not bad:
            break
        if not skip_bad:
            named = ", ".join(f"{path}: {why}" for path, why in list(bad.items())[:3])
            raise UsageError(
                f"{len(bad)} of {len(files)} images in {source.folder} cannot be read ({named}); "
                "--skip-bad-images leaves them out."
            )
        good |= set(fresh) - set(bad)
        source = replace(
            source, excluded=(*source.excluded, *bad.items())
        )  # a subset is filled up by others: look again
    return source


def limited(labels: list[int], limit: int | None) -> list[int]:
    """Return sorted indices of a class-balanced subset: the same for the same labels and limit, always."""
    if limit is None or limit >= len(labels):
        return list(range(len(labels)))
    random = np.random.default_rng(derived_seed(0, "limit"))
    order = random.permutation(len(labels))
    rank: dict[int, int] = {}
    turns = []
    for index in order.tolist():
        turns.append((rank.get(labels[index], 0), index))
        rank[labels[index]] = rank.get(labels[index], 0) + 1
    position = {index: place for place, index in enumerate(order.tolist())}
    turns.sort(key=lambda turn: (turn[0], position[turn[1]]))
    return sorted(index for _, index in turns[:limit])


def load_pixels(source: DataSource, entry: ModelEntry, indices: Sequence[int]) -> Tensor:
    """Return uint8 pixels [len(indices), C, H, W]; small sets are decoded once and kept in memory."""
    import torch

    images = open_images(source)
    if len(images) * len(entry.mean) * entry.size**2 <= _MEMORY_LIMIT:
        return _all_pixels(source, entry)[torch.as_tensor(indices)]
    return decode_pixels(images, entry, indices)


@lru_cache(maxsize=2)
def _all_pixels(source: DataSource, entry: ModelEntry) -> Tensor:
    images = open_images(source)
    return decode_pixels(images, entry, range(len(images)))


def decode_pixels(images: ImageSet, entry: ModelEntry, indices: Sequence[int]) -> Tensor:
    """Return uint8 pixels [len(indices), C, H, W], decoded on a few threads (Pillow releases the lock)."""
    import torch

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        arrays = list(pool.map(lambda index: images.pixels(index, entry), indices))
    return torch.from_numpy(np.stack(arrays))
