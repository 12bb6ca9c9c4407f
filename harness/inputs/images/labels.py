"""What a model tells apart, which class a folder's name stands for, and what is right for an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
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


def class_of_folders(root: Path, names: list[str], classes: Classes) -> list[int]:
    """Return the class of each image by the folder it lies in; raises UsageError for a mixture of kinds."""
    words = [_folder(name, classes) for name in names]
    if "" in words:
        raise UsageError(f"{root} holds images in class folders and beside them (such as {names[words.index('')]}).")
    index = _class_folders(root, sorted(set(words)), classes)
    return [index[word] for word in words]


def _folder(name: str, classes: Classes) -> str:
    """Return the innermost folder of an image that is named as a class, or the innermost one."""
    inwards = name.split("/")[-2::-1]
    return next((word for word in inwards if classes.index(word) is not None), inwards[0] if inwards else "")


def _class_folders(root: Path, words: list[str], classes: Classes) -> dict[str, int]:
    """Return {folder: class}: names of classes, or numbers, or (of a model whose class names are not known) folders in
    their order."""
    known = classes.known
    for kind in (known.__contains__, _is_index(classes)):
        if all(map(kind, words)):
            return {word: classes.read(word, str(root)) for word in words}
    if not known:
        return _in_order(root, words, classes.count)
    unknown = [word for word in words if word not in known]
    if len(unknown) < len(words) and all(map(_is_index(classes), unknown)):
        raise UsageError(
            f"{root} mixes class folders named by {classes.kind} and by number (such as {unknown[0]}); "
            "one or the other."
        )
    some = ", ".join(unknown[:3])
    if classes.wordnet:
        raise UsageError(
            f"{root} has {len(unknown)} folders that are no ImageNet class (such as {some}); "
            "class folders are named by WordNet id (n01440764), or by a class_map.txt beside them."
        )
    raise UsageError(
        f"{root} has {len(unknown)} folders that are no class of the model (such as {some}); "
        f"its classes are {shortened(', '.join(known), 80)}."
    )


def _is_index(classes: Classes) -> Callable[[str], bool]:
    return lambda word: word not in classes.known and classes.index(word) is not None


def _in_order(root: Path, words: list[str], count: int) -> dict[str, int]:
    """Return the folders' places in sorted order, as torchvision's ImageFolder counts them.

    Raises UsageError when they are not as many as there are classes, or timm, which sorts numbers in names by their
    value, would count them differently.
    """
    from timm.utils.misc import natural_key

    if count not in (0, len(words)):
        raise UsageError(
            f"{root} has {len(words)} class folders, and the model has {count} classes; class_names in a TOML file "
            "beside its checkpoint tell which are which."
        )
    if count and sorted(words, key=natural_key) != words:
        raise UsageError(
            f"{root}: torchvision and timm sort its class folders differently (such as {words[0]}, {words[1]}); "
            "the model's class names must be known."
        )
    return {word: index for index, word in enumerate(words)}


def truths(labels: Sequence[Label]) -> Tensor:
    """Return the right classes [n, k] of images, k as many as the image with most has; others repeat their first."""
    import torch

    sets = [(label,) if isinstance(label, int) else label for label in labels]
    most = max(map(len, sets))
    return torch.tensor([(*right, *right[:1] * (most - len(right))) for right in sets])


def are_right(answers: Tensor, labels: Sequence[Label]) -> Tensor:
    """Return for each answer [n], a class, whether it is among the image's right ones."""
    return (answers[:, None] == truths(labels)).any(1)
