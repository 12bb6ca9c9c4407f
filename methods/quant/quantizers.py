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
        self.search, self.axis, self.symmetric = search, axis, symmetric
        self.qmin, self.qmax = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))

    def fit(self, x: Tensor) -> None:
        """Choose scale and zero point by `search` over x, per slice along `axis` if that is set."""
        rows = x.reshape(1, -1) if self.axis is None else x.movedim(self.axis, 0).flatten(1)
        scale, zero_point = self.search(rows.float(), self.grid)
        self.scale = scale.squeeze() if self.axis is None else scale
        self.zero_point = zero_point.squeeze() if self.axis is None else zero_point

    def grid(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, int, int]:
        """Turn ranges [low, high] into (scale, zero point, qmin, qmax)."""
        return *ranges.affine(low, high, self.qmin, self.qmax, self.symmetric), self.qmin, self.qmax

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Round with torch's fused kernels."""
        if self.axis is None:
            return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, self.qmin, self.qmax)
        return torch.fake_quantize_per_channel_affine(x, self.scale, self.zero_point, self.axis, self.qmin, self.qmax)

    def describe(self) -> str:
        """Name grid, granularity and range search."""
        grid = "symmetric" if self.symmetric else "asymmetric"
        return f"uniform {grid} {'per tensor' if self.axis is None else 'per channel'}, {self.search.describe()}"


class _Log2(torch.autograd.Function):
    """s * 2^-clip(round(-log2(a/s)), 0, levels), straight-through where the exponent is not clipped."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, a: Tensor, scale: Tensor, levels: int) -> Tensor:
        exponent = (scale / a).log2_().round_()
        ctx.save_for_backward((exponent >= 0) & (exponent <= levels))
        return exponent.clamp_(0, levels).neg_().exp2_().mul_(scale)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradients[0] * inside, None, None


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
