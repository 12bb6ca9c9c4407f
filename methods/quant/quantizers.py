"""Fake quantizers: modules that round their input to an integer grid and map it straight back.

Simulated quantization: the arithmetic stays in floating point, only the values lie on the grid. Gradients
pass straight through inside the range and are zero outside it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from methods.quant import ranges


class Quantizer(nn.Module, ABC):
    """A fake quantizer of `bits` bits that takes its range from the tensors it observes.

    While `observing` is set, a forward pass fits the range to its input and returns the input unchanged.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.observing = False

    @abstractmethod
    def fit(self, x: Tensor) -> None:
        """Choose scale (and zero point) for the values of x; every finite tensor gives a finite range."""

    @abstractmethod
    def fake_quantize(self, x: Tensor) -> Tensor:
        """Return x rounded to the grid, same shape."""

    @abstractmethod
    def describe(self) -> str:
        """Say in a few words what this quantizer does, for the record's list of operations."""

    def forward(self, x: Tensor) -> Tensor:
        """Fit the range to x and pass x on while observing; return x on the grid otherwise."""
        if self.observing:
            self.fit(x.detach())
            return x
        return self.fake_quantize(x)


class _Affine(torch.autograd.Function):
    """s * clip(round(x/s), low, high), straight-through where nothing is clipped.

    A chain of in-place operations: torch's own fake-quantize kernels are one kernel on GPUs, but run at a
    tenth of this chain's speed on CPUs (measured with torch 2.15).
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, x: Tensor, scale: Tensor, low: Tensor, high: Tensor
    ) -> Tensor:
        rounded = x.div(scale).round_()
        if not ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            return rounded.clamp_(low, high).mul_(scale)
        clipped = rounded.clamp(low, high)
        ctx.save_for_backward(clipped.ne(rounded))
        return clipped.mul_(scale)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (outside,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradients[0].masked_fill(outside, 0.0), None, None, None


class UniformQuantizer(Quantizer):
    """Affine quantizer: X_q = clip(round(X/s) + z, qmin, qmax), X^ = s (X_q - z).

    `symmetric`: z = 0 and the grid is -2^(b-1)..2^(b-1)-1; otherwise the grid is 0..2^b-1. `axis` gives
    one scale per slice along that dimension, None one for the tensor. `search` names how the range is
    chosen (`methods.quant.ranges`). Zero is always on the grid.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(
        self, bits: int, search: ranges.RangeSearch, axis: int | None = None, symmetric: bool = False
    ) -> None:
        super().__init__(bits)
        self.search, self.axis = search, axis
        self.grid = ranges.symmetric_grid(bits) if symmetric else ranges.asymmetric_grid(bits)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros(()))

    def fit(self, x: Tensor) -> None:
        """Choose scale and zero point by `search` over x, per slice along `axis` if that is set."""
        rows = x.reshape(1, -1) if self.axis is None else x.movedim(self.axis, 0).flatten(1)
        scale, zero_point = self.search(rows.float(), self.grid)
        shape = [1] * x.dim()
        if self.axis is not None:
            shape[self.axis] = -1
        self.scale, self.zero_point = scale.reshape(shape), zero_point.reshape(shape)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Round to the grid."""
        low, high = self.grid.qmin - self.zero_point, self.grid.qmax - self.zero_point
        result: Tensor = _Affine.apply(x, self.scale, low, high)
        return result

    def describe(self) -> str:
        """Name grid, granularity and range search."""
        grid = "symmetric" if self.grid.symmetric else "asymmetric"
        return f"uniform {grid} {'per tensor' if self.axis is None else 'per channel'}, {self.search.describe()}"


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
    """Logarithmic quantizer for non-negative values (post-softmax attention).

    A_q = clip(round(-log2(A/s)), 0, 2^b-1), A^ = s 2^(-A_q). The grid is s times powers of one half; zero
    becomes the smallest of them.
    """

    scale: Tensor

    def __init__(self, bits: int, search: ranges.RangeSearch) -> None:
        super().__init__(bits)
        self.search = search
        self.levels = 2**bits - 1
        self.register_buffer("scale", torch.ones(()))

    def fit(self, x: Tensor) -> None:
        """Choose the scale, the largest value of the grid, by `search` over x."""
        self.scale = self.search.log2_scale(x.float().flatten(), self.levels)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Round the exponent."""
        result: Tensor = _Log2.apply(x, self.scale, self.levels)
        return result

    def describe(self) -> str:
        """Name grid and range search."""
        return f"log2 per tensor, {self.search.describe()}"


def log2_fake_quantize(a: Tensor, scale: Tensor, levels: int) -> Tensor:
    """Apply the log2 quantizer's function once, for range searches."""
    result: Tensor = _Log2.apply(a, scale, levels)
    return result
