"""PTQ4ViT's twin-uniform quantizer: two uniform grids of b-1 bits side by side, one fine and one coarse."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from methods.quant.quantizers.base import Quantizer
from methods.quant.quantizers.ranges import finite


class TwinUniformQuantizer(Quantizer):
    """Two grids of 2^(b-1) values, told apart by a leading bit of the code; the nearer value of both is taken.

    `signed` False (after softmax): both start at zero, the first fine, the second up to the largest value;
    True (after GELU): the first holds the negative values, the second the positive ones. The second step is
    2^k times the first, so that a shift aligns them; k is the integer of least squared error. The paper
    draws a fixed line between the two regions; the nearer value keeps the map monotone for every k. Zero is
    exact.
    """

    steps: Tensor
    """The two steps [2], the first negative where its grid holds the negative values."""

    def __init__(self, bits: int, signed: bool = False) -> None:
        super().__init__(bits)
        self.signed, self.count = signed, 2 ** (bits - 1)
        self.register_buffer("steps", torch.ones(2))

    @property
    def codes(self) -> range:
        """0..2^(b-1)-1 on the first grid, counted away from zero, then as many on the second."""
        return range(2 * self.count)

    def fit(self, x: Tensor) -> None:
        """Take the second step from the largest value, and the first at the best power of two from it."""
        values = finite(x.float().reshape(1, -1)).squeeze(0)
        largest = float(values.amax().clamp(min=0)) or float(values.abs().amax()) or 1.0
        coarse = largest / (self.count - 1)
        shifts = range(-2 * self.bits if self.signed else 0, 2 * self.bits + 1)
        best = math.inf
        for shift in shifts:
            fine = coarse * 2.0**-shift
            self.steps = values.new_tensor([-fine if self.signed else fine, coarse])
            error = float((self.dequantize(self.quantize(values)) - values).square_().mean())
            if error < best:
                best, kept = error, self.steps
        self.steps = kept

    def quantize(self, x: Tensor) -> Tensor:
        """Return the code of the nearer value; ties go to the first grid."""
        x = x.clamp(*self._ends(self.count - 1))
        first, second = (x.div(step).round_().clamp_(0, self.count - 1) for step in self.steps)
        nearer = (first * self.steps[0] - x).abs_() <= (second * self.steps[1] - x).abs_()
        return torch.where(nearer, first, second + self.count).int()

    def dequantize(self, codes: Tensor) -> Tensor:
        """Return the values of the codes."""
        return torch.where(codes < self.count, codes * self.steps[0], (codes - self.count) * self.steps[1])

    def inside(self, x: Tensor) -> Tensor:
        """Within half a step of the ends of the grid."""
        low, high = self._ends(self.count - 0.5)
        low = low if self.signed else -0.5 * self.steps[0]
        return (x >= low) & (x <= high)

    def _ends(self, steps: float) -> tuple[Tensor, Tensor]:
        """Return where that many steps away from zero lead."""
        return (self.steps[0] * steps).clamp(max=0), self.steps[1] * steps

    def describe(self) -> str:
        """Name grid and granularity."""
        return f"twin-uniform {'signed' if self.signed else 'non-negative'} per tensor"
