"""Logarithms to the base of 2^(1/r), r a power of two, without a logarithm: read off the exponent of a float.

The exponent of x^r is the whole part of r log2 x; clearing the mantissa rounds x^r down to a power of two, and
square roots lead back to x. Multiplied by 2^(1/(2r)) before, x is rounded to the nearest exponent instead.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

RATES = (1, 2, 4)
"""Steps per power of two (AdaLog's adaptive base is 2^(1/r)) that are tried. Eight would help six bits a
little, at four more operations per value."""
LAST_CODE = 126
"""The last q whose 2^-q is a normal single-precision number: where a grid of powers ends, however many its bits."""
_EXPONENT = 0x7F800000
"""The exponent bits of a single-precision number."""
_BIAS, _MANTISSA_BITS = 127, 23


def nearest_power_(x: Tensor, scale: Tensor, rate: int, last: int) -> Tensor:
    """Return x/scale rounded to 2^(-q/rate), q = 0..last <= 126, in place (float32)."""
    x.mul_(2 ** (0.5 / rate) / scale).clamp_(edge(rate, last), 1.0)  # no power is subnormal, which would be slow
    _raised_(x, rate).view(torch.int32).bitwise_and_(_EXPONENT)
    for _ in range(_squarings(rate)):
        x.sqrt_()
    return x


def nearest_code(x: Tensor, scale: Tensor, rate: int) -> Tensor:
    """Return round(-rate log2(x/scale)) (int32), 127 for what has more; x stays as it is."""
    return _BIAS - (_raised_(x.mul(2 ** (0.5 / rate) / scale), rate).view(torch.int32) >> _MANTISSA_BITS)


def edge(rate: int, code: int) -> float:
    """Return where the values of a code end and those of the one before begin, for scale 1."""
    return math.exp2((0.5 - code) / rate)


def _raised_(x: Tensor, rate: int) -> Tensor:
    """Return x^rate in place."""
    for _ in range(_squarings(rate)):
        x.square_()
    return x


def _squarings(rate: int) -> int:
    """Return log2 of a rate."""
    return rate.bit_length() - 1
