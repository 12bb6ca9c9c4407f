"""Which images a run measures on: the embedded digits, procedural images, or images on disk, opened in any process.

Their pixels come in batches, decoded ahead of the model, at a memory that does not grow with their number.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.inputs.digits import digits_split
from harness.inputs.images.decoding import damaged
from harness.inputs.images.labels import WORDNET, Classes, Label
from harness.inputs.images.layouts import Found, find_images
from harness.inputs.images.sets import ArrayImages, ImageSet, StoredImages, dead_leaves
from harness.inputs.seeds import derived_seed
from harness.inputs.zoo import IMAGENET, ModelEntry
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
_KEPT_BYTES = 1 << 27  # of pixels; sets of more are decoded anew in each pass
_AHEAD = 2  # batches decoded while the model is at another


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
    if _fits(images, entry):
        return _all_pixels(source, entry)[torch.as_tensor(indices)]
    return decode_pixels(images, entry, indices)


def pixel_batches(source: DataSource, entry: ModelEntry, size: int) -> Iterator[Tensor]:
    """Yield the uint8 pixels [size, C, H, W] of a set in its order, the last ones maybe fewer."""
    images = open_images(source)
    if _fits(images, entry):
        yield from _all_pixels(source, entry).split(size)
    else:
        yield from _decoded_ahead(images, entry, size)


def _fits(images: ImageSet, entry: ModelEntry) -> bool:
    return len(images) * len(entry.mean) * entry.size**2 <= _KEPT_BYTES


@lru_cache(maxsize=2)
def _all_pixels(source: DataSource, entry: ModelEntry) -> Tensor:
    images = open_images(source)
    return decode_pixels(images, entry, range(len(images)))


def decode_pixels(images: ImageSet, entry: ModelEntry, indices: Sequence[int]) -> Tensor:
    """Return uint8 pixels [len(indices), C, H, W], decoded on a few threads."""
    import torch

    pixels = torch.empty((len(indices), len(entry.mean), entry.size, entry.size), dtype=torch.uint8)
    with _decoders() as pool:
        for place, image in enumerate(pool.map(lambda index: images.pixels(index, entry), indices)):
            pixels[place] = image
    return pixels


def _decoded_ahead(images: ImageSet, entry: ModelEntry, size: int) -> Iterator[Tensor]:
    """Yield batches while threads decode the next ones."""
    import torch

    waiting: deque[list[Future[Tensor]]] = deque()
    with _decoders() as pool:
        for start in range(0, len(images) + _AHEAD * size, size):
            part = range(start, min(start + size, len(images)))
            waiting.append([pool.submit(images.pixels, index, entry) for index in part])
            if len(waiting) > _AHEAD:
                yield torch.stack([image.result() for image in waiting.popleft()])


def _decoders() -> ThreadPoolExecutor:
    """Return threads to decode on (Pillow releases the lock)."""
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1))
