"""Uniform quantizers whose step and offset are learned: LSQ, with the offset of LSQ+.

Esser et al., "Learned Step Size Quantization", ICLR 2020 (eq. 3), and Bhalgat et al., "LSQ+", CVPR workshops 2020
(eq. 6 and 7): X^ = s clip(round((X - m)/s), low, high) + m, where rounding passes gradients straight through.
With v = (X - m)/s, the gradient of a value with respect to

    X: 1 inside, 0 where clipped;    s: round(v) - v inside, low or high where clipped;    m: 0 inside, 1 where clipped

and those of s and m, summed over the values, times `gradient_scale` / sqrt(n high'), n the values of one step and
high' the number of steps in the grid. Inside is where rounding stays on the grid, as for `UniformQuantizer`,
half a step further than in the papers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from methods.quant.quantizers.base import Chain, Quantizer, change_, changed
from methods.quant.quantizers.ranges import AnyGrid, FakeQuantize, RangeSearch
from methods.quant.quantizers.uniform import OffsetQuantizer, UniformQuantizer


class _LearnedStep(torch.autograd.Function):
    """The formula of this module; low and high may differ per step."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, scale: Tensor, offset: Tensor, low: Tensor, high: Tensor, factor: float
    ) -> Tensor:
        steps = (x - offset).div_(scale)
        rounded = steps.round()
        codes = rounded.clamp(low, high)
        inside = codes == rounded
        ctx.save_for_backward(inside, torch.where(inside, codes - steps, codes))
        ctx.factor, ctx.shapes = factor, (scale.shape, offset.shape)  # type: ignore[attr-defined]
        return codes.mul_(scale).add_(offset)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inside, slope = ctx.saved_tensors  # type: ignore[attr-defined]
        passed = gradients[0] * inside
        scale, offset = ctx.shapes  # type: ignore[attr-defined]
        factor = ctx.factor  # type: ignore[attr-defined]
        stretched = factor * (gradients[0] * slope).sum_to_size(scale)
        moved = factor * (gradients[0] - passed).sum_to_size(offset)
        return passed, stretched, moved, None, None, None


class LearnedStepQuantizer(Quantizer):
    """A fitted uniform quantizer turned trainable: parameters `scale` and `offset`, in the unit of the values.

    At the start its outputs are those of `start`, bit for bit: the offset of an affine grid counts from its own
    zero and begins at 0, that of an `OffsetQuantizer` at its own. The step used is |scale|, so that no update can
    turn the grid round. `learn_offset` False leaves the offset where it is (symmetric weights);
    `gradient_scale`: factor on the papers' scale of the gradients of step and offset.
    """

    def __init__(
        self, start: UniformQuantizer | OffsetQuantizer, gradient_scale: float = 1.0, learn_offset: bool = True
    ) -> None:
        super().__init__(start.bits)
        self.start, self.gradient_scale = start, gradient_scale
        self.scale = nn.Parameter(torch.ones(()))
        self.offset = nn.Parameter(torch.zeros(()), requires_grad=learn_offset)
        self._restart()

    def _restart(self) -> None:
        """Take step and offset from the quantizer this one starts from."""
        self.scale.data = self.start.scale.clone()
        if isinstance(self.start, UniformQuantizer):
            self.offset.data = torch.zeros_like(self.start.scale)
        else:
            self.offset.data = self.start.offset.clone()

    @property
    def codes(self) -> range:
        """The codes of the quantizer it starts from."""
        return self.start.codes

    def fit(self, x: Tensor) -> None:
        """Fit the quantizer it starts from, and start again from there."""
        self.start.fit(x)
        self._restart()

    def quantize(self, x: Tensor) -> Tensor:
        """Return clip(round((x - m)/s), low, high), counted on the grid of the codes."""
        low, high = self._bounds()
        steps = x.sub(self.offset).div_(self._step()).round_().clamp_(low, high)
        return (steps - low + self.codes[0]).int()

    def dequantize(self, codes: Tensor) -> Tensor:
        """Return s (codes - codes[0] + low) + m."""
        return (codes - self.codes[0] + self._bounds()[0]) * self._step() + self.offset

    def inside(self, x: Tensor) -> Tensor:
        """Where rounding stays on the grid."""
        low, high = self._bounds()
        steps = x.sub(self.offset).div_(self._step()).round_()
        return (steps >= low) & (steps <= high)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Round to the grid, with the gradients of this module's formula."""
        if not torch.is_grad_enabled():
            return changed(x, self._chain(), self.start.axis is None)
        factor = self.gradient_scale / math.sqrt(max(1, x.numel() // self.scale.numel()) * (len(self.codes) - 1))
        result: Tensor = _LearnedStep.apply(x, self._step(), self.offset, *self._bounds(), factor)
        return result

    def fake_quantize_(self, x: Tensor) -> None:
        """Round x to the grid in place; no gradient passes."""
        with torch.no_grad():
            change_(x, self._chain(), self.start.axis is None)

    def freeze(self) -> UniformQuantizer | OffsetQuantizer:
        """Return what was learned as a plain quantizer: affine where the offset of an affine grid was not learned.

        An offset grid may round ties, and what lies within float's rounding of them, to the other neighbour.
        """
        frozen: UniformQuantizer | OffsetQuantizer
        search, axis = _Learned(self.start.search), self.start.axis
        with torch.no_grad():
            scale = self._step().clone()
            if isinstance(self.start, UniformQuantizer) and not self.offset.requires_grad:
                frozen = UniformQuantizer(self.bits, search, axis, self.start.grid.symmetric)
                frozen.scale, frozen.zero_point = scale, self.start.zero_point.clone()
                return frozen
            frozen = OffsetQuantizer(self.bits, search, axis)
            frozen.scale, frozen.offset = scale, self.offset + self._bounds()[0] * scale
            return frozen

    def _step(self) -> Tensor:
        return self.scale.abs().clamp(min=torch.finfo(torch.float32).tiny)

    def _bounds(self) -> tuple[Tensor, Tensor]:
        """Return the least and the largest number of steps from the offset."""
        if isinstance(self.start, UniformQuantizer):
            zero, grid = self.start.zero_point, self.start.grid
            return grid.qmin - zero, grid.qmax - zero
        zero = torch.zeros_like(self.scale)
        return zero, zero + self.start.grid.levels

    def _chain(self) -> Chain:
        """Return rounding to the grid."""
        scale, offset, (low, high) = self._step(), self.offset, self._bounds()
        if low.is_cpu and low.numel() == 1:  # clipping to numbers is several times faster there
            bottom, top = float(low), float(high)
            return lambda x, out: (
                torch.sub(x, offset, out=out).div_(scale).round_().clamp_(bottom, top).mul_(scale).add_(offset)
            )
        return lambda x, out: (
            torch.sub(x, offset, out=out).div_(scale).round_().clamp_(low, high).mul_(scale).add_(offset)
        )

    def describe(self) -> str:
        """Name grid, granularity and how the step is found."""
        return f"{self.start.describe()}, learned step"


class _Learned(RangeSearch):
    """The range of another search, since learned; fits like it."""

    def __init__(self, start: RangeSearch) -> None:
        self.start = start

    def _range(self, rows: Tensor, grid: AnyGrid) -> tuple[Tensor, Tensor]:
        return self.start(rows, grid)

    def _upper(self, values: Tensor, fake: FakeQuantize) -> Tensor:
        return self.start.upper(values, fake)

    def describe(self) -> str:
        """Name the search, and that its range was learned."""
        return f"{self.start.describe()}, then learned"
