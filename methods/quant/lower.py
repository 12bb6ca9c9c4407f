"""A quantized model in the operations runtimes know: every quantizer becomes a quantize and a dequantize.

The operations are those of `torch.ops.quantized_decomposed`, which torch.export keeps and other tools read. Weights
become stored integers. Values are those of the simulation, but for ties of rounding: these operations multiply by
1/scale where the quantizers divide by the scale.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization.fx import _decomposed as _registers  # noqa: F401 - defines the operations

from methods.errors import UsageError
from methods.quant.insert import quantized_layers, replace
from methods.quant.quantizers.base import IntegerGrid, Quantizer
from methods.quant.quantizers.ranges import ACTIVATION_PERCENTILES, PercentileRange
from methods.quant.quantizers.uniform import UniformQuantizer

OPERATIONS: Any = torch.ops.quantized_decomposed


class Lowered(nn.Module):
    """What a quantizer becomes: its scale and zero point, one per tensor or one per slice along `axis`."""

    def __init__(self, grid: IntegerGrid) -> None:
        super().__init__()
        self.low, self.high, self.axis = grid.low, grid.high, grid.axis
        self.dtype = torch.int8 if grid.low < 0 else torch.uint8
        self.register_buffer("scale", grid.scale.flatten().float())
        self.register_buffer("zero_point", grid.zero_point.flatten().to(torch.int64))
        self.scalars = (float(grid.scale), int(grid.zero_point)) if grid.axis is None else None

    def _grid(self) -> tuple[Any, ...]:
        """Return the operations' arguments behind the tensor."""
        numbers = self.scalars if self.axis is None else (self.scale, self.zero_point, self.axis)
        return (*(numbers or ()), self.low, self.high, self.dtype)

    def _kind(self) -> str:
        return "per_tensor" if self.axis is None else "per_channel"

    def quantized(self, x: Tensor) -> Tensor:
        """Return the codes of x, int8 or uint8."""
        codes: Tensor = getattr(OPERATIONS, f"quantize_{self._kind()}")(x, *self._grid())
        return codes

    def dequantized(self, codes: Tensor) -> Tensor:
        """Return the values of codes."""
        values: Tensor = getattr(OPERATIONS, f"dequantize_{self._kind()}")(codes, *self._grid())
        return values

    def forward(self, x: Tensor) -> Tensor:
        """Return x on the grid."""
        return self.dequantized(self.quantized(x))


class LoweredWeight(Lowered):
    """A weight as integers: what the quantizer of a layer's weight becomes."""

    codes: Tensor

    def __init__(self, grid: IntegerGrid, codes: Tensor) -> None:
        super().__init__(grid)
        self.register_buffer("codes", codes.to(self.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Return the values of the stored codes; x is the weight they were made of."""
        return self.dequantized(self.codes)


def lowered(model: nn.Module) -> nn.Module:
    """Return a copy of a quantized `model`, on the CPU, whose quantizers are operations of integers.

    Raises UsageError that names the first quantizer whose grid is not an affine one.
    """
    _refuse_others(model)
    result = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    for _, layer in quantized_layers(result):
        if layer.weights is not None:
            grid = layer.weights.to_qdq()
            assert grid is not None
            layer.weights = LoweredWeight(grid, layer.weights.quantize(layer.layer.weight))  # type: ignore[assignment]
            layer.folded = False
    for name, module in list(result.named_modules()):
        if isinstance(module, Quantizer):
            grid = module.to_qdq()
            assert grid is not None
            replace(result, name, Lowered(grid))
    return result


def _others(model: nn.Module) -> list[tuple[str, Quantizer]]:
    """Return the quantizers of a model that are no affine ones."""
    modules = list(model.named_modules())
    return [(name, m) for name, m in modules if isinstance(m, Quantizer) and m.to_qdq() is None]


def _refuse_others(model: nn.Module) -> None:
    others = _others(model)
    if others:
        name, quantizer = others[0]
        raise UsageError(
            f"{len(others)} quantizers of this model are not uniform ({name}: {quantizer.describe()}), which no QDQ "
            "graph can say; --uniform puts uniform ones in their place, calibrated on the same images."
        )


def with_uniform_grids(model: nn.Module, images: Tensor) -> nn.Module:
    """Return a copy of a quantized `model` in which uniform quantizers stand where others did.

    Their ranges are the percentile clips of least squared error over what passes for `images` [n, C, H, W], with all
    others quantizing. Weights stay as they are.
    """
    result = copy.deepcopy(model)
    fresh = []
    for name, quantizer in _others(result):
        uniform = UniformQuantizer(quantizer.bits, PercentileRange(ACTIVATION_PERCENTILES))
        replace(result, name, uniform)
        fresh.append(uniform)
    for uniform in fresh:
        uniform.observing = uniform.sequential = True
    with torch.no_grad():
        result(images)
    for uniform in fresh:
        uniform.observing = uniform.sequential = False
    return result
