"""A logarithmic quantizer for softmax outputs that keeps the weight of their many small values.

What an attention map is multiplied with, the value vectors, has a large part common to all tokens: an error e of a
row of weights costs sum(e^2) times the variance of the parts that differ and sum(e)^2 times the square of the common
one. A grid of least squared error alone spends few bits on the many small weights, which together are most of a row:
on DeiT-T at three bits log-sqrt2 loses 50 to 80 % of it, log2 adds 20 to 100 %. This quantizer is this project's.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from methods.quant.quantizers import ranges
from methods.quant.quantizers.base import Chain, Quantizer, changed, straight_through
from methods.quant.quantizers.logarithmic import LAST_CODE, RATES, edge, nearest_code, nearest_power_

_SCALES = [2.0 ** (-quarters / 4) for quarters in range(25)]
"""Largest values that are tried, of the largest there is."""
_ROWS = 1024


class TailLogQuantizer(Quantizer):
    """q = min(round(-r log2(A/s)), 2^b-1), A^ = s 2^(-q/r), and t for the last q: the mean of what falls there.

    Rate r and scale s are those of least sum(e^2) + sum(e)^2 over at most 1024 rows, as for value vectors whose common
    part is as large as their deviation from it (on training images of ImageNet, DeiT-T at W4A4 did as well with four
    times the weight and worse with a tenth). Zero is not on the grid unless t is 0. A product with t needs no
    multiplication per weight: it is t times a sum of value vectors. From 7 bits on the last q is 126.
    """

    shift = 0.0
    """What is added to values before they are rounded: nothing."""
    scale: Tensor
    rate: Tensor
    tail: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        self.learned = False
        self.last = min(2**bits - 1, LAST_CODE)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("rate", torch.ones(()))
        self.register_buffer("tail", torch.zeros(()))

    @property
    def codes(self) -> range:
        """0..2^b-1, from the largest value to the tail."""
        return range(self.last + 1)

    def fit(self, x: Tensor) -> None:
        """Try every rate and scale on rows of x [..., n]; an all-zero x keeps the scale 1."""
        values = ranges.finite(x.float().reshape(-1, x.shape[-1])).clamp_(min=0)
        thinned, largest = values[:: max(1, len(values) // _ROWS)], values.max()
        if not largest:
            return
        best = math.inf
        for rate in RATES:
            for part in _SCALES:
                scale = largest * part
                tail = self._tail(thinned, scale, rate)
                errors = changed(thinned, self._chain(scale, rate, tail)).sub_(thinned)
                cost = float(errors.square().sum() + errors.sum(-1).square().sum())
                if cost < best:
                    best, kept = cost, (scale, rate)
        self.scale, self.rate = kept[0], values.new_tensor(float(kept[1]))
        self.tail = self._tail(values, *kept)

    def _tail(self, values: Tensor, scale: Tensor, rate: int) -> Tensor:
        """Return the mean of the values that get the last code, 0 if there are none."""
        small = values < edge(rate, self.last) * scale
        return values.mul(small).sum() / small.sum().clamp(min=1)

    def _chain(self, scale: Tensor, rate: int, tail: Tensor) -> Chain:
        """Return rounding to the grid."""
        begin, floor = edge(rate, self.last), float(tail / scale)
        return lambda x, out: torch.threshold_(
            nearest_power_(out.copy_(x), scale, rate, self.last), begin, floor
        ).mul_(scale)

    def quantize(self, x: Tensor) -> Tensor:
        """Return clip(round(-r log2(x/s)), 0, 2^b-1)."""
        return nearest_code(x, self.scale, int(self.rate)).clamp_(0, self.last)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Return s 2^(-codes/r), and t for the last code."""
        powers = codes.float().div(-self.rate).exp2_().mul_(self.scale)
        return torch.where(codes == self.last, self.tail, powers)

    def inside(self, x: Tensor) -> Tensor:
        """Where the exponent is neither clipped nor in the tail."""
        exponent = nearest_code(x, self.scale, int(self.rate))
        kept: Tensor = (exponent >= 0) & (exponent < self.last)
        return kept

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Return x on the grid, in one chain of operations."""
        with torch.no_grad():
            value = changed(x, self._chain(self.scale, int(self.rate), self.tail))
        return straight_through(x, value, self.inside)

    def stretch(self, scale: Tensor) -> None:
        """Take another scale, and a tail that keeps its ratio to it."""
        self.scale, self.tail = scale, self.tail * (scale / self.scale)

    def describe(self) -> str:
        """Name the grid, and whether its scale was learned after the fit."""
        found = "least error of rows and their sums"
        return f"log with the tail's mean per tensor, {found}{', then learned' if self.learned else ''}"


class AdaptiveLogQuantizer(TailLogQuantizer):
    """AdaLog's grid for softmax outputs (Wu et al., ECCV 2024): A^ = s 2^(-q/r), and 0 from q = 2^b on.

    As in the published code, zero comes on top of 2^b powers: 2^b+1 codes, one more than b bits hold. Inferred: scale
    and rate are chosen as above, for the published search by the error of the product with the values; the rates,
    which are 37/k with k a whole number there. From 7 bits on zero begins at q = 126.
    """

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        self.last = min(2**bits, LAST_CODE)

    def _tail(self, values: Tensor, scale: Tensor, rate: int) -> Tensor:
        return values.new_zeros(())

    def describe(self) -> str:
        """Name the grid, and whether its scale was learned then."""
        return super().describe().replace("log with the tail's mean", "log with zero beside its powers")
