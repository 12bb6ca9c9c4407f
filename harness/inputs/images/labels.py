"""What a model tells apart, and what is right for an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, TypeAlias

from methods.errors import UsageError
from methods.text import shortened

if TYPE_CHECKING:
    from torch import Tensor

Label: TypeAlias = int | tuple[int, ...]
"""A class index, or all that count as right."""


@lru_cache
def class_index() -> dict[str, int]:
    """Return {WordNet id: class index} of ImageNet-1k: the position among the sorted 1000 ids."""
    from timm.data import ImageNetInfo

    return {wnid: index for index, wnid in enumerate(sorted(ImageNetInfo("imagenet-1k").label_names()))}


@dataclass(frozen=True)
class Classes:
    """What a model tells apart."""

    count: int
    """How many; 0 of a model without a head, whose images may be of any."""
    names: tuple[str, ...] = ()
    """In the order of its outputs, empty where they are not known."""
    wordnet: bool = False
    """Whether they are ImageNet-1k's, named by WordNet id."""

    @cached_property
    def known(self) -> dict[str, int]:
        """{name: index}, empty where names are not known."""
        return class_index() if self.wordnet else {name: index for index, name in enumerate(self.names)}

    @property
    def kind(self) -> str:
        """What a name of a class is called."""
        return "WordNet id" if self.wordnet else "class of the model"

    def index(self, word: str) -> int | None:
        """Return the class of a name or of an index written as a number, None if there is none."""
        known = self.known
        if word in known:
            return known[word]
        digits = word.lstrip("0") or word[-1:]
        if digits.isascii() and digits.isdecimal() and len(digits) < 10 and int(digits) < (self.count or 10**9):
            return int(digits)
        return None

    def read(self, word: str, place: str) -> int:
        """Return the class of a word in a label file; raises UsageError that names the place."""
        found = self.index(word)
        if found is None:
            upto = f" 0..{self.count - 1}" if self.count else ""
            raise UsageError(f"{place}: {shortened(word)!r} is neither a class index{upto} nor a {self.kind}.")
        return found


WORDNET = Classes(1000, wordnet=True)


def truths(labels: Sequence[Label]) -> Tensor:
    """Return the right classes [n, k] of images, k as many as the image with most has; others repeat their first."""
    import torch

    sets = [(label,) if isinstance(label, int) else label for label in labels]
    most = max(map(len, sets))
    return torch.tensor([(*right, *right[:1] * (most - len(right))) for right in sets])


def are_right(answers: Tensor, labels: Sequence[Label]) -> Tensor:
    """Return for each answer [n], a class, whether it is among the image's right ones."""
    return (answers[:, None] == truths(labels)).any(1)
