"""Small floating-point numbers: the values that some bits of exponent and mantissa have, and rounding to them.

Definitions: OCP 8-bit Floating Point Specification 1.0 (E4M3) and OCP Microscaling Formats (MX) 1.0 (E2M1, E2M3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FloatFormat:
    """A sign, `exponent` bits with a bias of 2^(exponent-1) - 1, `mantissa` bits; subnormals, no infinities."""

    name: str
    exponent: int
    mantissa: int
    largest: float
    """The largest value; E4M3 gives the code above it to NaN."""

    @property
    def bits(self) -> int:
        """Bits of an element."""
        return 1 + self.exponent + self.mantissa

    @property
    def highest(self) -> int:
        """The exponent of the largest value."""
        return math.frexp(self.largest)[1] - 1

    @property
    def lowest(self) -> int:
        """The exponent of the smallest normal value, which subnormals share."""
        return 2 - (1 << (self.exponent - 1))

    def round_(self, x: Tensor) -> Tensor:
        """Round x to the nearest values in place, ties to even, beyond the largest to it."""
        step = torch.exp2((x.frexp().exponent - 1).clamp_(min=self.lowest).sub_(self.mantissa).float())
        return x.div_(step).round_().mul_(step).clamp_(-self.largest, self.largest)

    def values(self) -> list[float]:
        """Return all values that are not negative, in rising order, by the definition."""
        found = []
        for code in range(2 ** (self.bits - 1)):
            power, fraction = code >> self.mantissa, (code & (2**self.mantissa - 1)) / 2**self.mantissa
            bias = 2 ** (self.exponent - 1) - 1
            value = (1 + fraction) * 2.0 ** (power - bias) if power else fraction * 2.0 ** (1 - bias)
            found.append(value)
        return [value for value in found if value <= self.largest]


E2M1 = FloatFormat("E2M1", 2, 1, 6.0)
E2M3 = FloatFormat("E2M3", 2, 3, 7.5)
E4M3 = FloatFormat("E4M3", 4, 3, 448.0)
E8M0_LOWEST, E8M0_HIGHEST = -127, 127
"""Exponents of E8M0, the scale of MX blocks: powers of two alone."""
