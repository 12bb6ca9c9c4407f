"""AdaLog's quantizer for what a GELU puts out: a logarithmic grid of values shifted to be positive.

Wu et al., "AdaLog: Post-Training Quantization for Vision Transformers with Adaptive Logarithm Quantizer", ECCV 2024.
Most of a GELU's values crowd at its lower end and a few are many times larger: a uniform grid of four bits spends
nearly all of its steps on the few.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from methods.quant.quantizers import ranges
from methods.quant.quantizers.base import Quantizer, changed, straight_through
from methods.quant.quantizers.logarithmic import LAST_CODE, RATES, nearest_code, nearest_power_

GELU_SHIFT = 0.17
"""What is added: GELU's minimum is -0.16997."""
_SAMPLE = 1 << 18


class ShiftedLogQuantizer(Quantizer):
    """q = clip(round(-r log2((X + c)/s)), 0, 2^b-1), X^ = s 2^(-q/r) - c, with c = 0.17.

    The rate r, steps per power of two (AdaLog's adaptive base, 2^(1/r)), is the one of `RATES` with the least squared
    error, found on a thinned tensor (inferred, as are the rates: powers of two, for which q is read off the exponent
    of a float); `search` chooses the largest value s. Zero is not on the grid. From 7 bits on the grid ends at
    q = 126. The shift of the result is a constant that the next layer's bias could take up.
    """

    shift = GELU_SHIFT
    """The constant c of the formula."""
    scale: Tensor
    rate: Tensor

    def __init__(self, bits: int, search: ranges.RangeSearch) -> None:
        super().__init__(bits)
        self.learned = False
        self.search, self.levels = search, min(2**bits - 1, LAST_CODE)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("rate", torch.ones(()))

    @property
    def codes(self) -> range:
        """0..2^b-1, from the largest value to the smallest."""
        return range(self.levels + 1)

    def fit(self, x: Tensor) -> None:
        """Choose the rate on a thinned x, then the scale for it on all of x."""
        values = ranges.finite(x.float().reshape(1, -1)).squeeze(0).add(GELU_SHIFT).clamp_(min=0)
        thinned, best = values[:: max(1, len(values) // _SAMPLE)], math.inf
        for rate in RATES:
            scale = self._scale(thinned, rate)
            error = float(self._rounded(thinned, scale, rate).sub_(thinned).square_().mean())
            if error < best:
                best, kept = error, rate
        self.scale, self.rate = self._scale(values, kept), values.new_tensor(float(kept))

    def _scale(self, values: Tensor, rate: int) -> Tensor:
        return self.search.upper(values, lambda a, scale: self._rounded(a, scale, rate))

    def _rounded(self, values: Tensor, scale: Tensor, rate: int) -> Tensor:
        """Return shifted values on the grid, still shifted."""
        return changed(values, lambda x, out: self._round_(out.copy_(x), scale, rate))

    def _round_(self, x: Tensor, scale: Tensor, rate: int) -> Tensor:
        """Round shifted values to the grid, in place; zero becomes the smallest value."""
        return nearest_power_(x, scale, rate, self.levels).mul_(scale)

    def quantize(self, x: Tensor) -> Tensor:
        """Return clip(round(-r log2((x + c)/s)), 0, 2^b-1)."""
        return self._exponent(x).clamp_(0, self.levels)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Return s 2^(-codes/r) - c."""
        values: Tensor = codes.float().div(-self.rate).exp2_().mul_(self.scale).sub_(GELU_SHIFT)
        return values

    def inside(self, x: Tensor) -> Tensor:
        """Where the exponent is not clipped."""
        exponent = self._exponent(x)
        kept: Tensor = (exponent >= 0) & (exponent <= self.levels)
        return kept

    def _exponent(self, x: Tensor) -> Tensor:
        """Return round(-r log2((x + c)/s)) as int32, 127 for zero."""
        return nearest_code(x.add(GELU_SHIFT).clamp_(min=0), self.scale, int(self.rate))

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Return x on the grid, in one chain of operations."""
        scale, rate = self.scale, int(self.rate)
        with torch.no_grad():
            value = changed(
                x, lambda a, out: self._round_(torch.add(a, GELU_SHIFT, out=out), scale, rate).sub_(GELU_SHIFT)
            )
        return straight_through(x, value, self.inside)

    def stretch(self, scale: Tensor) -> None:
        """Take another scale."""
        self.scale = scale

    def describe(self) -> str:
        """Name grid and range search, and whether its scale was learned then."""
        return f"shifted log per tensor, {self.search.describe()}{', then learned' if self.learned else ''}"
