"""Logarithmic quantizers for non-negative values: post-softmax attention, most of which lies near zero.

Logarithms to the base of 2^(1/r), r a power of two, are read off the exponent of a float, without a logarithm: that of
x^r is the whole part of r log2 x; clearing the mantissa rounds x^r down to a power of two, and square roots lead back
to x. Multiplied by 2^(1/(2r)) before, x is rounded to the nearest exponent instead.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from methods.quant.quantizers import ranges
from methods.quant.quantizers.base import Chain, Quantizer, changed, straight_through

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


class _Log2(torch.autograd.Function):
    """s * 2^-clip(round(-log2(a/s)), 0, levels), straight-through where the exponent is not clipped."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, a: Tensor, scale: Tensor, levels: int) -> Tensor:
        exponent = a.div(scale).log2_().round_()
        if not ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            return exponent.clamp_(-levels, 0).exp2_().mul_(scale)
        clipped = exponent.clamp(-levels, 0)
        ctx.save_for_backward(clipped.ne(exponent))
        return clipped.exp2_().mul_(scale)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (outside,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradients[0].masked_fill(outside, 0.0), None, None


class Log2Quantizer(Quantizer):
    """A_q = clip(round(-log2(A/s)), 0, 2^b-1), A^ = s 2^(-A_q).

    The grid is s times powers of one half; zero becomes the smallest of them.
    """

    scale: Tensor

    def __init__(self, bits: int, search: ranges.RangeSearch) -> None:
        super().__init__(bits)
        self.search = search
        self.levels = 2**bits - 1
        self.register_buffer("scale", torch.ones(()))

    @property
    def codes(self) -> range:
        """0..2^b-1, from the largest value to the smallest."""
        return range(self.levels + 1)

    def fit(self, x: Tensor) -> None:
        """Choose the scale, the largest value of the grid, by `search` over x."""
        self.scale = self.search.upper(x.float().flatten(), lambda a, s: _Log2.apply(a, s, self.levels))

    def quantize(self, x: Tensor) -> Tensor:
        """Return clip(round(-log2(x/s)), 0, 2^b-1)."""
        return x.div(self.scale).log2_().neg_().round_().clamp_(0, self.levels).int()

    def dequantize(self, codes: Tensor) -> Tensor:
        """Return s 2^-codes."""
        values: Tensor = codes.float().neg_().exp2_().mul_(self.scale)
        return values

    def inside(self, x: Tensor) -> Tensor:
        """Where the exponent is not clipped."""
        exponent: Tensor = x.div(self.scale).log2_().neg_().round_()
        kept: Tensor = (exponent >= 0) & (exponent <= self.levels)
        return kept

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Round the exponent, in one chain of operations."""
        result: Tensor = _Log2.apply(x, self.scale, self.levels)
        return result

    def describe(self) -> str:
        """Name grid and range search."""
        return f"log2 per tensor, {self.search.describe()}"


class LogSqrt2Quantizer(Quantizer):
    """RepQ-ViT's logarithm to the base of root two: q = round(-2 log2(A/s)), A^ = s 2^(-q/2), 0 from q = 2^b on.

    The paper writes 2^(-ceil(q/2)) times root two for odd q, which is the same value by shifts alone. As in its
    published code, zero comes on top of 2^b powers: 2^b+1 codes, one more than b bits hold; `strict` leaves out the
    smallest power, so that b bits do. Zero is exact.

    q is read off the exponent of (A/s)^2 (`methods.quant.quantizers.logarithmic`). From 7 bits on zero begins at q =
    126, where the square of a float ends: a 10^-19th of the scale.
    """

    scale: Tensor

    def __init__(self, bits: int, search: ranges.RangeSearch, strict: bool = False) -> None:
        super().__init__(bits)
        self.search, self.strict = search, strict
        self.zero_code = min(2**bits - strict, LAST_CODE)
        self.register_buffer("scale", torch.ones(()))

    @property
    def codes(self) -> range:
        """0..2^b, from the largest value to zero."""
        return range(self.zero_code + 1)

    def fit(self, x: Tensor) -> None:
        """Choose the scale, the largest value of the grid, by `search` over x."""
        self.scale = self.search.upper(x.float().flatten(), lambda a, s: changed(a, self._chain(s)))

    def quantize(self, x: Tensor) -> Tensor:
        """Return round(-2 log2(x/s)) in 0..2^b-1, and 2^b for all that is smaller (`strict`: one less each)."""
        return self._exponent(x).clamp_(0, self.zero_code)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Return s 2^(-codes/2), and 0 for the last code."""
        powers = (codes * -0.5).exp2_().masked_fill_(codes == self.zero_code, 0.0)
        return powers * self.scale

    def inside(self, x: Tensor) -> Tensor:
        """Where the exponent is neither clipped nor so large that the value becomes zero."""
        exponent = self._exponent(x)
        kept: Tensor = (exponent >= 0) & (exponent < self.zero_code)
        return kept

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Round twice the exponent."""
        with torch.no_grad():
            value = changed(x, self._chain(self.scale))
        return straight_through(x, value, self.inside)

    def _exponent(self, x: Tensor) -> Tensor:
        """Return round(-2 log2(x/s)) as int32, 127 for zero."""
        return nearest_code(x, self.scale, 2)

    def _chain(self, scale: Tensor) -> Chain:
        """Return rounding to the grid of `scale`, and what is nearer to q = 2^b becomes zero."""
        smallest = edge(2, self.zero_code)
        return lambda x, out: torch.threshold_(
            nearest_power_(out.copy_(x), scale, 2, self.zero_code), smallest, 0.0
        ).mul_(scale)

    def describe(self) -> str:
        """Name grid and range search."""
        return f"log-sqrt2{' strict' if self.strict else ''} per tensor, {self.search.describe()}"
