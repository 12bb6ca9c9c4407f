"""Loaded models as trials use them: the pixel space of an entry, and one model kept per process."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from harness.weights import Weights, load_model
from harness.zoo import ModelEntry
from methods.contracts import ImageSpace

if TYPE_CHECKING:
    from torch import nn


def image_space(entry: ModelEntry) -> ImageSpace:
    """Return the normalized pixel space of a model."""
    return ImageSpace(entry.size, entry.size, entry.mean, entry.std)


@lru_cache(maxsize=1)
def shared_model(entry: ModelEntry, weights: Weights) -> nn.Module:
    """Return a model that many trials of one process may read; it is frozen and must not be changed."""
    return load_model(entry, weights)
