"""Bit-widths: `w4a4` means 4-bit weights and 4-bit activations; 32 leaves that side in floating point."""

from __future__ import annotations

import re
from dataclasses import dataclass

from methods.errors import UsageError

FLOAT = 32


@dataclass(frozen=True)
class Bits:
    """Bit-widths of weights and activations, each 2..8 or 32 (floating point)."""

    weights: int
    activations: int

    @classmethod
    def parse(cls, text: str) -> Bits:
        """Read `w<weights>a<activations>`; raises UsageError for another form or a width out of range."""
        match = re.fullmatch(r"w(\d+)a(\d+)", text.strip().lower())
        if match is None:
            raise UsageError(f"Bits {text!r} are not of the form w4a4 (weight bits, activation bits).")
        bits = cls(int(match[1]), int(match[2]))
        for side, width in (("weight", bits.weights), ("activation", bits.activations)):
            if not (2 <= width <= 8 or width == FLOAT):
                raise UsageError(
                    f"{side.capitalize()} bits {width} in {text!r} are out of range: 2 to 8, or 32 for none."
                )
        return bits

    @property
    def float(self) -> bool:
        """Whether nothing is quantized at all."""
        return self.weights == FLOAT and self.activations == FLOAT

    def __str__(self) -> str:
        return f"w{self.weights}a{self.activations}"
