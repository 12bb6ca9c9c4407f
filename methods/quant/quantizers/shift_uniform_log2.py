"""I&S-ViT's quantizer for post-softmax attention: uniform codes of a shifted logarithm."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from methods.quant.quantizers import ranges
from methods.quant.quantizers.base import Quantizer, straight_through

ETAS = (0.001, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.1, 0.2, 0.5, 1.0)


class ShiftUniformLog2Quantizer(Quantizer):
    """I&S-ViT's shift-uniform-log2: uniform codes of y = -log2(A + eta), whose exponent is rounded on the way back.

    q = clip(round((y - m)/s), 0, 2^b-1), A^ = 2^-round(s q + m) - eta. The shift eta is the one of `ETAS` with
    the least squared error. `search` chooses the range of y (that it need not hold zero is inferred). Zero
    is not on the grid, small values may become slightly negative.
    """

    scale: Tensor
    offset: Tensor
    eta: Tensor

    def __init__(self, bits: int, search: ranges.RangeSearch) -> None:
        super().__init__(bits)
        self.search, self.grid = search, ranges.OffsetGrid(2**bits - 1)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("eta", torch.ones(()))

    @property
    def codes(self) -> range:
        """0..2^b-1, from the largest value to the smallest."""
        return range(self.grid.levels + 1)

    def fit(self, x: Tensor) -> None:
        """Try every shift with the range `search` finds for it, and keep the best."""
        values = ranges.finite(x.float().reshape(1, -1)).squeeze(0)
        best = math.inf
        for eta in ETAS:
            self.eta = values.new_tensor(eta)
            scale, offset = self.search(self._logarithm(values)[None], self.grid)
            self.scale, self.offset = scale.squeeze(0), offset.squeeze(0)
            error = float((self.dequantize(self.quantize(values)) - values).square_().mean())
            if error < best:
                best, kept = error, (self.scale, self.offset, self.eta)
        self.scale, self.offset, self.eta = kept

    def quantize(self, x: Tensor) -> Tensor:
        """Return clip(round((y - m)/s), 0, 2^b-1)."""
        return self._steps(x).clamp_(0, self.grid.levels).int()

    def dequantize(self, codes: Tensor) -> Tensor:
        """Return 2^-round(s codes + m) - eta."""
        return (codes * self.scale).add_(self.offset).round_().neg_().exp2_().sub_(self.eta)

    def inside(self, x: Tensor) -> Tensor:
        """Where the code is not clipped."""
        steps = self._steps(x)
        return (steps >= 0) & (steps <= self.grid.levels)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Return x on the grid; the logarithm is taken once."""
        with torch.no_grad():
            steps = self._steps(x)
            codes = steps.clamp(0, self.grid.levels)
            value = self.dequantize(codes)
        return straight_through(x, value, lambda _: codes == steps)

    def _logarithm(self, x: Tensor) -> Tensor:
        return (x + self.eta).log2_().neg_()

    def _steps(self, x: Tensor) -> Tensor:
        return self._logarithm(x).sub_(self.offset).div_(self.scale).round_()

    def describe(self) -> str:
        """Name grid and range search."""
        return f"shift-uniform-log2 per tensor, {self.search.describe()}"
