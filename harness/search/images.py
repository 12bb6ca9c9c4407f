"""The images a search looks at, which are not those its results are reported on.

Without labels asked for they are procedural (dead leaves, other ones than reports use), so that a tuned method is
still data-free; a search by accuracy takes the digits' training images, or a folder given. Sharing a single image
with the set of `--data` is refused.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import replace
from pathlib import Path

from harness.inputs.image_sets import (
    DIGITS,
    DIGITS_TRAIN,
    SEARCH_LEAVES,
    DataSource,
    folder_of,
    open_images,
)
from harness.inputs.images.sets import ArrayImages, StoredImages
from harness.inputs.zoo import ModelEntry
from methods.errors import UsageError

PROCEDURAL = "procedural"
_NAMED = {PROCEDURAL: SEARCH_LEAVES, DIGITS: DIGITS, DIGITS_TRAIN: DIGITS_TRAIN}
LABELLED = {"top1", "top5", "retention"}
_RUNGS = 4


def search_source(where: str | None, limit: int | None, entry: ModelEntry, metrics: list[str]) -> DataSource:
    """Return where a search's images come from, by what --search-data says.

    Raises UsageError when they have no labels and a metric needs them.
    """
    labelled = sorted(LABELLED & set(metrics))
    if where is None:
        if labelled and entry.task != DIGITS:
            raise UsageError(f"A search by {labelled[0]} needs labelled images of its own: give --search-data DIR.")
        where = DIGITS_TRAIN if labelled else PROCEDURAL
    if where != PROCEDURAL and (where in _NAMED) != (entry.task == DIGITS):
        raise UsageError(f"--search-data {where} does not fit {entry.name}, which classifies {entry.task} images.")
    if where == PROCEDURAL and labelled:
        raise UsageError(f"Procedural images have no labels, which {labelled[0]} needs; search by agreement or kl.")
    if where in _NAMED:
        return DataSource(_NAMED[where], limit)
    return folder_of(entry, str(Path(where).expanduser().absolute()), limit)


def shared_images(reported: str | None, entry: ModelEntry, source: DataSource) -> int:
    """Return how many images of a search are among those that results are reported on, by what --data says;
    0 for procedural ones."""
    where = reported or os.environ.get("DFQ_DATA")
    if source.where == SEARCH_LEAVES or (entry.task != DIGITS and not where):
        return 0
    if entry.task == DIGITS:
        return len(_marks(source) & _marks(DataSource(DIGITS)))
    folder = str(Path(str(where)).expanduser().absolute())
    return len(_marks(source) & _marks(folder_of(entry, folder)))


def _marks(source: DataSource) -> set[str]:
    """Return what tells each image of a set from others: its pixels, or its file's name and size."""
    images = open_images(source)
    if isinstance(images, ArrayImages):
        return {hashlib.sha256(image.tobytes()).hexdigest() for image in images.images}
    assert isinstance(images, StoredImages)
    return {f"{Path(path).name} {images.store.size(path)}" for path, _ in images.files}


def rungs(source: DataSource, asha: bool) -> list[DataSource]:
    """Return the growing parts of a set that ASHA measures on, an eighth to all; without ASHA the whole set."""
    count = len(open_images(source))
    smallest = math.ceil(count / 2 ** (_RUNGS - 1))
    sizes = [min(smallest * 2**power, count) for power in range(_RUNGS)] if asha else [count]
    return [replace(source, limit=size) for size in dict.fromkeys(sizes)]
