"""Bit-widths: `w4a4` means 4-bit weights and 4-bit activations; 32 leaves that side in floating point.

A published number format (`mxfp4`) stands for the bits of its element on both sides. Mixed precision gives layers bits
of their own: `w4a4+<name>-<checksum>` is what it is called, with w4a4 where no layer has its own. Nothing but `Bits`
reads or makes such words.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TypeAlias

from methods.errors import UsageError
from methods.text import shortened

FLOAT = 32
FORMATS = {"mxfp4": 4, "mxfp6": 6, "mxfp8": 8, "nvfp4": 4, "fp8": 8}
"""Number formats that are no integers with a scale, and the bits of one element (`methods.quant.recipe`)."""
_DIGEST, _LONGEST = 8, 40
_PLAIN = rf"(w[0-9]{{1,3}}a[0-9]{{1,3}}|{'|'.join(FORMATS)})"
PATTERN = rf"^{_PLAIN}(\+[A-Za-z0-9_]{{1,{_LONGEST}}}-[0-9a-f]{{{_DIGEST}}})?$"
"""What the words look like."""

Layers: TypeAlias = tuple[tuple[str, "Bits"], ...]
Patterns: TypeAlias = Iterable[tuple[str, str]]


class Bits(str):
    """The word that names bits, and what it means: two are equal when their words are."""

    weights: int
    """2 to 8, or 32 for floating point."""
    activations: int
    """Alike."""
    number_format: str
    """The number format of both sides; empty: integers, on whatever grids the backend chooses."""
    layers: Layers
    """(pattern, bits) of the layers that have bits of their own; where several fit a name, the last one counts. Empty
    in mixed bits that were read from their word, which has only a checksum of them."""
    name: str
    """What mixed bits are called; empty: all layers have the same."""

    def __new__(
        cls, weights: int, activations: int, layers: Layers = (), name: str = "", number_format: str = ""
    ) -> Bits:
        """Make bits of their parts; of the name what a word can hold is taken."""
        plain = number_format or f"w{weights}a{activations}"
        name = re.sub(r"\W", "_", name, flags=re.ASCII)[:_LONGEST]
        return cls._of(f"{plain}+{name}-{_checksum(plain, layers)}" if layers else plain, layers)

    @classmethod
    def parse(cls, text: str) -> Bits:
        """Read a word, in capitals or between blanks too; raises UsageError for others and widths out of range."""
        plain, plus, label = text.strip().partition("+")
        word = f"{plain.lower()}{plus}{label}"
        _check(word, text)
        return cls._of(word)

    @classmethod
    def _of(cls, word: str, layers: Layers = ()) -> Bits:
        bits = super().__new__(cls, word)
        plain, _, label = word.partition("+")
        bits.number_format = plain if plain in FORMATS else ""
        bits.weights, bits.activations = _widths(plain)
        bits.layers, bits.name = layers, label.rpartition("-")[0]
        return bits

    def __reduce__(self) -> tuple[Callable[[str, Layers], Bits], tuple[str, Layers]]:
        return Bits._of, (str(self), self.layers)

    def of(self, layer: str) -> Bits:
        """Return the bits of a layer or attention module by its name in the model."""
        own = [bits for pattern, bits in self.layers if fnmatchcase(layer, pattern)]
        return own[-1] if own else self.default

    def fits(self, default: str, patterns: Patterns) -> bool:
        """Whether the word is that of mixed bits with a default and patterns."""
        return self == f"{default}+{self.name}-{_checksum(default, patterns)}"

    @property
    def default(self) -> Bits:
        """The bits of layers that no pattern fits."""
        return Bits(self.weights, self.activations, number_format=self.number_format)

    @property
    def float(self) -> bool:
        """Whether nothing is quantized at all."""
        return all(bits.weights == bits.activations == FLOAT for bits in self._all())

    @property
    def formats(self) -> list[str]:
        """The number formats that take part."""
        return sorted({bits.number_format for bits in self._all() if bits.number_format})

    def _all(self) -> Iterator[Bits]:
        yield self
        yield from (bits for _, bits in self.layers)


def _widths(plain: str) -> tuple[int, int]:
    if plain in FORMATS:
        return FORMATS[plain], FORMATS[plain]
    weights, activations = plain[1:].split("a")
    return int(weights), int(activations)


@lru_cache(maxsize=1024)  # the records of a folder name few words, each many times
def _check(word: str, text: str) -> None:
    if not re.fullmatch(PATTERN, word):
        known = ", ".join(FORMATS)
        raise UsageError(
            f"Bits {shortened(text)!r} are not of the form w4a4 (weight and activation bits), nor one of {known}."
        )
    for side, width in zip(("Weight", "Activation"), _widths(word.partition("+")[0]), strict=True):
        if not (2 <= width <= 8 or width == FLOAT):
            raise UsageError(f"{side} bits {width} in {text!r} are out of range: 2 to 8, or 32 for none.")


def _checksum(default: str, patterns: Patterns) -> str:
    """Return what tells one assignment of bits to layers from all others."""
    text = json.dumps([default, [list(pair) for pair in patterns]])
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST]
