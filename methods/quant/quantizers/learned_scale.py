"""Quantizers whose scale is learned, whatever their grid: LSQ's gradient for logarithmic grids too.

A grid that stretches with its scale, X^ = s f((X + c)/s) - c with a constant c, has, rounding passing gradients
straight through (f' = 1 inside, 0 where clipped),

    dX^/ds = f(v) - v inside, f(v) where clipped, v = (X + c)/s,

which for f(v) = clip(round(v)) is LSQ's gradient (Esser et al., ICLR 2020, eq. 3). For logarithmic grids it is
inferred.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from methods.quant.quantizers.base import Quantizer
from methods.quant.quantizers.shifted_log import ShiftedLogQuantizer
from methods.quant.quantizers.tail_log import TailLogQuantizer

Stretching = ShiftedLogQuantizer | TailLogQuantizer


class _Stretched(torch.autograd.Function):
    """The rounded value going forward, the formula of this module going backward, times `factor` for the scale."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, scale: Tensor, value: Tensor, inside: Tensor, shift: float, factor: float
    ) -> Tensor:
        slope = torch.where(inside, value - x, value + shift).div_(scale)
        ctx.save_for_backward(inside, slope)
        ctx.factor, ctx.shape = factor, scale.shape  # type: ignore[attr-defined]
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inside, slope = ctx.saved_tensors  # type: ignore[attr-defined]
        stretched = ctx.factor * (gradients[0] * slope).sum_to_size(ctx.shape)  # type: ignore[attr-defined]
        return gradients[0] * inside, stretched, None, None, None, None


class LearnedScaleQuantizer(Quantizer):
    """A fitted logarithmic quantizer whose scale can be learned; at the start its outputs are those of `start`.

    The step used is |scale|, so that no update can turn the grid round.
    """

    def __init__(self, start: Stretching) -> None:
        super().__init__(start.bits)
        self.start = start
        self.scale = nn.Parameter(start.scale.clone())

    @property
    def codes(self) -> range:
        """The codes of the quantizer it starts from."""
        return self.start.codes

    def fit(self, x: Tensor) -> None:
        """Fit the quantizer it starts from, and start again from there."""
        self.start.fit(x)
        self.scale.data = self.start.scale.clone()

    def quantize(self, x: Tensor) -> Tensor:
        """Return the codes at the present scale."""
        return self._stretched().quantize(x)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Return the values of codes at the present scale."""
        return self._stretched().dequantize(codes)

    def inside(self, x: Tensor) -> Tensor:
        """Where nothing is clipped at the present scale."""
        return self._stretched().inside(x)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Round to the grid, with the gradients of this module's formula."""
        with torch.no_grad():
            start = self._stretched()
            value = start.fake_quantize(x)
        if not torch.is_grad_enabled():
            return value
        factor = 1 / math.sqrt(x.numel() * (len(self.codes) - 1))
        scale = self.scale.abs()
        result: Tensor = _Stretched.apply(x, scale, value, start.inside(x.detach()), start.shift, factor)
        return result

    def freeze(self) -> Stretching:
        """Return what was learned as a plain quantizer."""
        start = self._stretched()
        start.learned = True
        return start

    def _stretched(self) -> Stretching:
        self.start.stretch(self.scale.detach().abs().clamp(min=torch.finfo(torch.float32).tiny))
        return self.start

    def describe(self) -> str:
        """Name the grid and how its scale is found."""
        return f"{self.start.describe()}, learned scale"
