"""Bit-widths: `w4a4` means 4-bit weights and 4-bit activations; 32 leaves that side in floating point.

A published number format (`mxfp4`) stands for the bits of its element on both sides. Mixed precision gives layers bits
of their own: `Bits` then holds patterns of layer names beside its default.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from methods.errors import UsageError
from methods.text import shortened

FLOAT = 32
FORMATS = {"mxfp4": 4, "mxfp6": 6, "mxfp8": 8, "nvfp4": 4, "fp8": 8}
"""Number formats that are no integers with a scale, and the bits of one element (`methods.quant.formats`)."""
_DIGEST = 8


@dataclass(frozen=True)
class Bits:
    """Bit-widths of weights and activations, each 2..8 or 32 (floating point).

    layers: (pattern, bits) of the layers that have bits of their own; where several patterns fit a name, the last
    one counts. name: what tables call such an assignment.
    """

    weights: int
    activations: int
    layers: tuple[tuple[str, Bits], ...] = ()
    name: str = ""
    format: str = ""
    """The number format of both sides; empty: integers, on whatever grids the backend chooses."""

    @classmethod
    def parse(cls, text: str) -> Bits:
        """Read `w<weights>a<activations>` or a format; raises UsageError for other forms and widths out of range."""
        word = text.strip().lower()
        if word in FORMATS:
            return cls(FORMATS[word], FORMATS[word], format=word)
        match = re.fullmatch(r"w(\d{1,3})a(\d{1,3})", word, re.ASCII)
        if match is None:
            known = ", ".join(FORMATS)
            raise UsageError(
                f"Bits {shortened(text)!r} are not of the form w4a4 (weight and activation bits), nor one of {known}."
            )
        bits = cls(int(match[1]), int(match[2]))
        for side, width in (("weight", bits.weights), ("activation", bits.activations)):
            if not (2 <= width <= 8 or width == FLOAT):
                raise UsageError(
                    f"{side.capitalize()} bits {width} in {text!r} are out of range: 2 to 8, or 32 for none."
                )
        return bits

    def of(self, layer: str) -> Bits:
        """Return the bits of a layer or attention module by its name in the model."""
        own = [bits for pattern, bits in self.layers if fnmatchcase(layer, pattern)]
        return own[-1] if own else Bits(self.weights, self.activations, format=self.format)

    @property
    def float(self) -> bool:
        """Whether nothing is quantized at all."""
        widths = {(bits.weights, bits.activations) for bits in (self, *(bits for _, bits in self.layers))}
        return widths == {(FLOAT, FLOAT)}

    @property
    def formats(self) -> list[str]:
        """The number formats that take part."""
        return sorted({bits.format for bits in (self, *(bits for _, bits in self.layers)) if bits.format})

    @property
    def default(self) -> str:
        """The bits of layers that no pattern fits, as text."""
        return self.format or f"w{self.weights}a{self.activations}"

    @property
    def patterns(self) -> list[list[str]]:
        """The pairs of pattern and bits as text."""
        return [[pattern, bits.default] for pattern, bits in self.layers]

    def __str__(self) -> str:
        """Return `w4a4`, and for mixed precision `w4a4+<name>-<digest of default and patterns>`."""
        return f"{self.default}+{self.name}-{digest(self.default, self.patterns)}" if self.layers else self.default


def widths(text: str) -> tuple[int, ...]:
    """Return the bits of weights and activations that such text begins with, of mixed precision its default's."""
    word = text.partition("+")[0]
    if word in FORMATS:
        return (FORMATS[word],) * 2
    return tuple(int(width) for width in re.findall(r"[wa](\d+)", word))


def digest(default: str, patterns: Iterable[Iterable[str]]) -> str:
    """Return what tells one assignment of bits from all others: the start of a sha256 over default and patterns."""
    text = json.dumps([default, [list(pair) for pair in patterns]])
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST]
