"""Logarithms to the base of 2^(1/r), r = 2^k, without a logarithm: read off the exponent of a float.

The exponent of x^r is the whole part of r log2 x; clearing the mantissa rounds x^r down to a power of two, and
square roots lead back to x. Multiplied by 2^(1/(2r)) before, x is rounded to the nearest exponent instead.
"""

from __future__ import annotations

import torch
from torch import Tensor

LAST_CODE = 126
"""The last q whose 2^-q is a normal single-precision number: where a grid of powers ends, however many its bits."""
_EXPONENT = 0x7F800000
"""The exponent bits of a single-precision number."""
_BIAS, _MANTISSA_BITS = 127, 23


def floor_power_(x: Tensor, squarings: int) -> Tensor:
    """Round x >= 0 (float32) down to 2^(-q/r), r = 2^squarings, q whole, in place; below 2^(-126/r) to zero."""
    _raised_(x, squarings).view(torch.int32).bitwise_and_(_EXPONENT)
    for _ in range(squarings):
        x.sqrt_()
    return x


def power_code(x: Tensor, squarings: int) -> Tensor:
    """Return the q (int32) of `floor_power_`, 127 for zero; x is changed."""
    return _BIAS - (_raised_(x, squarings).view(torch.int32) >> _MANTISSA_BITS)


def _raised_(x: Tensor, squarings: int) -> Tensor:
    for _ in range(squarings):
        x.square_()
    return x
