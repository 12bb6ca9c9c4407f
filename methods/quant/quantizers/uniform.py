"""Uniform quantizers: affine grids that hold zero, and offset grids that need not.

Affine ones are for weights and for activations per tensor; offset ones for activations channel by channel,
as RepQ-ViT calibrates what leaves a LayerNorm.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from methods.quant.quantizers import ranges
from methods.quant.quantizers.base import Chain, IntegerGrid, Quantizer, change_, changed

Bound: TypeAlias = Tensor | float


class _Affine(torch.autograd.Function):
    """s * clip(round(x/s), low, high), straight-through where nothing is clipped."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, scale: Tensor, low: Bound, high: Bound) -> Tensor:
        rounded = x.div(scale).round_()
        clipped = rounded.clamp(low, high)  # type: ignore[arg-type]
        ctx.save_for_backward(clipped.ne(rounded))
        return clipped.mul_(scale)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (outside,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradients[0].masked_fill(outside, 0.0), None, None, None


def _rows(x: Tensor, axis: int | None) -> Tensor:
    """Return x as float32 rows, one per scale."""
    return (x.reshape(1, -1) if axis is None else x.movedim(axis, 0).flatten(1)).float()


def _shape(x: Tensor, axis: int | None) -> list[int]:
    """Return the shape that lets one value per row broadcast against x."""
    shape = [1] * x.dim()
    if axis is not None:
        shape[axis] = -1
    return shape


class UniformQuantizer(Quantizer):
    """Affine quantizer: X_q = clip(round(X/s) + z, qmin, qmax), X^ = s (X_q - z).

    `symmetric`: z = 0 and the grid is -2^(b-1)..2^(b-1)-1; otherwise the grid is 0..2^b-1. `axis` gives
    one scale per slice along that dimension, None one for the tensor. `search` names how the range is
    chosen (`methods.quant.quantizers.ranges`). Zero is always on the grid.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(
        self, bits: int, search: ranges.RangeSearch, axis: int | None = None, symmetric: bool = False
    ) -> None:
        super().__init__(bits)
        self.search, self.axis, self.symmetric = search, axis, symmetric
        self.grid = ranges.symmetric_grid(bits) if symmetric else ranges.asymmetric_grid(bits)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros(()))

    @property
    def codes(self) -> range:
        """qmin..qmax."""
        return range(self.grid.qmin, self.grid.qmax + 1)

    @property
    def constants(self) -> int:
        """Scales, and zero points unless they are all 0."""
        return self.scale.numel() if self.grid.symmetric else self.scale.numel() + self.zero_point.numel()

    def fit(self, x: Tensor) -> None:
        """Choose scale and zero point by `search` over x, per slice along `axis` if that is set."""
        scale, zero_point = self.search(_rows(x, self.axis), self.grid)
        shape = _shape(x, self.axis)
        self.scale, self.zero_point = scale.reshape(shape), zero_point.reshape(shape)

    def quantize(self, x: Tensor) -> Tensor:
        """Return clip(round(x/s) + z, qmin, qmax)."""
        return x.div(self.scale).round_().add_(self.zero_point).clamp_(self.grid.qmin, self.grid.qmax).int()

    def dequantize(self, codes: Tensor) -> Tensor:
        """Return s (codes - z)."""
        return (codes - self.zero_point) * self.scale

    def inside(self, x: Tensor) -> Tensor:
        """Where rounding stays on the grid."""
        steps = x.div(self.scale).round_().add_(self.zero_point)
        return (steps >= self.grid.qmin) & (steps <= self.grid.qmax)

    def to_qdq(self) -> IntegerGrid:
        """Return this very grid."""
        return IntegerGrid(self.scale, self.zero_point, self.axis, self.grid.qmin, self.grid.qmax)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Round to the grid."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            return changed(x, self._chain(), self.axis is None)
        result: Tensor = _Affine.apply(x, self.scale, *self._bounds())
        return result

    def fake_quantize_(self, x: Tensor) -> None:
        """Round x to the grid in place."""
        change_(x, self._chain(), self.axis is None)

    def _chain(self) -> Chain:
        """Return s * clip(round(x/s), low, high).

        torch's own fake-quantize kernels are one kernel on GPUs, but run at a tenth of this chain's speed on
        CPUs (measured with torch 2.15).
        """
        low, high = self._bounds()
        return lambda x, out: (
            torch.div(x, self.scale, out=out).round_().clamp_(low, high).mul_(self.scale)  # type: ignore[arg-type]
        )

    def _bounds(self) -> tuple[Bound, Bound]:
        """Return the outermost steps from zero; numbers on CPUs, where they make clipping several times faster."""
        low, high = self.grid.qmin - self.zero_point, self.grid.qmax - self.zero_point
        return (float(low), float(high)) if low.is_cpu and low.numel() == 1 else (low, high)

    def describe(self) -> str:
        """Name grid, granularity and range search."""
        grid = "symmetric" if self.grid.symmetric else "asymmetric"
        return f"uniform {grid} {'per tensor' if self.axis is None else 'per channel'}, {self.search.describe()}"


class OffsetQuantizer(Quantizer):
    """Uniform quantizer that need not hold zero: X_q = clip(round((X - m)/s), 0, 2^b-1), X^ = s X_q + m.

    One scale s and offset m per slice along `axis` (None: one for the tensor). A constant slice is kept
    exactly: its m is its value, its s the mean of the others' (1 where all are constant).
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, bits: int, search: ranges.RangeSearch, axis: int | None = None) -> None:
        super().__init__(bits)
        self.search, self.axis, self.grid = search, axis, ranges.OffsetGrid(2**bits - 1)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))

    @property
    def codes(self) -> range:
        """0..2^b-1."""
        return range(self.grid.levels + 1)

    def fit(self, x: Tensor) -> None:
        """Choose scale and offset by `search` over x, per slice along `axis` if that is set."""
        scale, offset = self.search(_rows(x, self.axis), self.grid)
        shape = _shape(x, self.axis)
        self.scale, self.offset = scale.reshape(shape), offset.reshape(shape)

    def quantize(self, x: Tensor) -> Tensor:
        """Return clip(round((x - m)/s), 0, 2^b-1)."""
        return x.sub(self.offset).div_(self.scale).round_().clamp_(0, self.grid.levels).int()

    def dequantize(self, codes: Tensor) -> Tensor:
        """Return s codes + m."""
        return codes * self.scale + self.offset

    def inside(self, x: Tensor) -> Tensor:
        """Where rounding stays on the grid."""
        steps = x.sub(self.offset).div_(self.scale).round_()
        return (steps >= 0) & (steps <= self.grid.levels)

    def describe(self) -> str:
        """Name grid, granularity and range search."""
        return f"uniform offset {'per tensor' if self.axis is None else 'per channel'}, {self.search.describe()}"
