"""Quantizers of published number formats: small floats with one scale per block of values, or per tensor.

MX (OCP Microscaling Formats 1.0): blocks of 32, the scale a power of two, 2^(floor(log2 max|X|) - highest exponent of
the element); what is then beyond the largest element saturates. NVFP4 (NVIDIA, 2025): E2M1, blocks of 16, a scale of
max|X|/6 in E4M3, itself in units of one float per tensor, max|tensor|/(6 x 448). FP8: E4M3, one float per tensor,
max|tensor|/448. Scales of blocks follow every tensor as it comes; those of tensors are calibrated.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

from methods.quant.quantizers.base import Quantizer
from methods.quant.quantizers.floating_point import E4M3, E8M0_HIGHEST, E8M0_LOWEST, FloatFormat

_WORD = 32
_TINY = torch.finfo(torch.float32).tiny


class FloatQuantizer(Quantizer):
    """X^ = s round(X/s), round to the values of `element`; the scales s are a matter of the format.

    axis: the dimension that blocks lie along, which a product sums over; None: all but the first together, as for the
    weight of a convolution. stored: whether the scales have to be stored with the codes, as those of weights.
    """

    scale_bits = 0
    """Of the scale of one block."""

    def __init__(self, element: FloatFormat, block: int | None, axis: int | None, stored: bool) -> None:
        """block: values in a block, None: one scale for the tensor."""
        super().__init__(element.bits)
        self.element, self.block, self.axis, self.stored = element, block, axis, stored
        self.blocks = 0
        self.register_buffer("values", torch.tensor(_signed(element)), persistent=False)

    values: Tensor

    @property
    def codes(self) -> range:
        """0.. the number of values less one, from the most negative value up."""
        return range(len(self.values))

    @property
    def constants(self) -> int:
        """32-bit words of scales: of the blocks if they are stored, and one of the tensor if there is one."""
        kept = self.blocks * self.scale_bits if self.stored else 0
        return -(-kept // _WORD) + (1 if hasattr(self, "scale") else 0)

    def fit(self, x: Tensor) -> None:
        """Count the blocks of x, and take the scale of the tensor if the format has one."""
        self.blocks = 0 if self.block is None else len(self._rows(x))

    @abstractmethod
    def scales(self, rows: Tensor) -> Tensor:
        """Return the scale of every row [r, 1] of rows [r, block]."""

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Return x on the grid of its blocks; gradients pass everywhere, as blocks leave next to nothing outside."""
        with torch.no_grad():
            rows = self._rows(x.detach()).clone()
            scale = self.scales(rows)
            value = self._unrows(self.element.round_(rows.div_(scale)).mul_(scale), x)
        return x + (value - x).detach() if torch.is_grad_enabled() and x.requires_grad else value

    def quantize(self, x: Tensor) -> Tensor:
        """Return the codes of x: places in `values`, of what every block's scale leaves."""
        rows = self._rows(x)
        rounded = self.element.round_(rows / self.scales(rows))
        return self._unrows(torch.searchsorted(self.values, rounded.contiguous()).float(), x).int()

    def dequantize(self, codes: Tensor) -> Tensor:
        """Return what the codes stand for in units of their blocks' scales, which a tensor brings along."""
        return self.values[codes.long()]

    def inside(self, x: Tensor) -> Tensor:
        """Everywhere."""
        return torch.ones_like(x, dtype=torch.bool)

    def _rows(self, x: Tensor) -> Tensor:
        """Return the blocks of x [r, block], the last of each line filled up with zeros; all of x as one row."""
        if self.block is None:
            return x.reshape(1, -1)
        lines = x.flatten(1) if self.axis is None else x.movedim(self.axis, -1)
        return functional.pad(lines, (0, -lines.shape[-1] % self.block)).reshape(-1, self.block)

    def _unrows(self, rows: Tensor, x: Tensor) -> Tensor:
        """Put the blocks of a tensor of x's shape together again."""
        if self.block is None:
            return rows.reshape(x.shape)
        lines = x.flatten(1) if self.axis is None else x.movedim(self.axis, -1)
        kept = rows.reshape(*lines.shape[:-1], -1)[..., : lines.shape[-1]]
        return kept.reshape(x.shape) if self.axis is None else kept.movedim(-1, self.axis)


def _signed(element: FloatFormat) -> list[float]:
    """Return all values of an element, zero once, in rising order."""
    values = element.values()
    return [-value for value in reversed(values[1:])] + values


class MXQuantizer(FloatQuantizer):
    """Blocks with a power of two for a scale."""

    scale_bits = 8

    def scales(self, rows: Tensor) -> Tensor:
        """Return 2^(floor(log2 max|X|) - highest exponent), within E8M0; 1 for a block of zeros."""
        most = rows.abs().amax(1, keepdim=True)
        power = most.frexp().exponent - 1 - self.element.highest
        scale = torch.exp2(power.clamp_(E8M0_LOWEST + 1, E8M0_HIGHEST).float())  # 2^-127 is subnormal in float32
        return torch.where(most > 0, scale, torch.ones_like(scale))

    def describe(self) -> str:
        """Name element and block."""
        return f"MX {self.element.name}, blocks of {self.block} with E8M0 scales"


class _TensorScaled(FloatQuantizer):
    """A format with one float per tensor, max|tensor| / reach."""

    scale: Tensor

    def __init__(self, element: FloatFormat, block: int | None, axis: int | None, stored: bool) -> None:
        super().__init__(element, block, axis, stored)
        self.register_buffer("scale", torch.ones(()))

    @property
    @abstractmethod
    def reach(self) -> float:
        """The largest value there is for a scale of 1."""

    def fit(self, x: Tensor) -> None:
        """Take the largest value of the tensor; an all-zero one keeps the scale 1."""
        super().fit(x)
        most = x.detach().float().nan_to_num(0, 0, 0).abs().max()
        self.scale = torch.where(most > 0, (most / self.reach).clamp(min=_TINY), torch.ones_like(most))


class NVFP4Quantizer(_TensorScaled):
    """Blocks with a scale in E4M3, in units of one float per tensor."""

    scale_bits = 8

    @property
    def reach(self) -> float:
        """Largest element times largest scale."""
        return self.element.largest * E4M3.largest

    def scales(self, rows: Tensor) -> Tensor:
        """Return round(max|X| / (6 t)) t, rounded to E4M3, t the tensor's; a scale that rounds to 0 leaves zeros."""
        wanted = rows.abs().amax(1, keepdim=True) / (self.element.largest * self.scale)
        scale = E4M3.round_(wanted).mul_(self.scale)
        return torch.where(scale > 0, scale, torch.full_like(scale, torch.inf))

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Return x on the grid of its blocks, zeros where a block's scale is too small for E4M3."""
        return super().fake_quantize(x).nan_to_num(0.0)

    def describe(self) -> str:
        """Name element and block."""
        return f"NVFP4, {self.element.name}, blocks of {self.block} with E4M3 scales"


class FP8Quantizer(_TensorScaled):
    """One float per tensor, no blocks."""

    @property
    def reach(self) -> float:
        """The largest element."""
        return self.element.largest

    def scales(self, rows: Tensor) -> Tensor:
        """Return the tensor's scale."""
        return self.scale.reshape(1, 1)

    def describe(self) -> str:
        """Name the element."""
        return f"FP8 {self.element.name} per tensor"
