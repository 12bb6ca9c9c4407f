"""QwT-v2's channel-wise affine compensation: y ~ a y^ + b per output channel, folded into scale and bias of a layer.

a = Cov(y^, y) / Var(y^), b = mean(y) - a mean(y^) over images and tokens: the least squared error there is with two
numbers a channel, so few that they hardly fit the images too closely. What a layer should put out is what it does in
its unit in floating point, for what comes in from the quantized network (inferred: the paper compensates blocks).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from methods.quant.insert import quantized_layers
from methods.quant.layers import QuantizedLayer
from methods.quant.quantizers.uniform import UniformQuantizer

_COMPENSATED = ("proj", "fc2")
"""The layers that add to a residual stream."""
_TINY = 1e-12


@torch.no_grad()
def compensate(plain: nn.Module, unit: nn.Module, inputs: Tensor) -> None:
    """Compensate the layers of a quantized unit that end its branches, one after another, in place.

    plain: the unit in floating point; inputs: [n, ...], what comes into both.
    """
    layers = [(name, layer) for name, layer in quantized_layers(unit) if name.endswith(_COMPENSATED)]
    with _outputs(plain, [name for name, _ in layers]) as wanted:
        plain(inputs)
    for name, layer in layers:
        with _outputs(unit, [name]) as found:
            unit.forward(inputs)
        scale_outputs(layer, *affine_fit(_rows(found[name], layer), _rows(wanted[name], layer)))


def affine_fit(found: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return a and b [channels] of the best a y^ + b for rows [n, channels]; a is 1 where it would not be positive."""
    found, wanted = found.double(), wanted.double()
    centred = found - found.mean(0)
    variance = centred.square().sum(0)
    gain = (centred * (wanted - wanted.mean(0))).sum(0) / variance.clamp(min=_TINY)
    gain = torch.where((variance > _TINY) & (gain > 0), gain, torch.ones_like(gain))
    return gain, wanted.mean(0) - gain * found.mean(0)


def scale_outputs(quantized: QuantizedLayer, gain: Tensor, shift: Tensor) -> None:
    """Make a layer put out gain * y + shift per channel; with scales per channel no rounding changes."""
    layer, weights = quantized.layer, quantized.weights
    column = gain.reshape(-1, *[1] * (layer.weight.dim() - 1))
    layer.weight.copy_(layer.weight * column)
    if weights is not None:
        assert isinstance(weights, UniformQuantizer)
        assert weights.axis == 0
        weights.scale = (weights.scale * column).float()
    if layer.bias is None:
        layer.bias = nn.Parameter(torch.zeros_like(shift, dtype=layer.weight.dtype), requires_grad=False)
    layer.bias.copy_(layer.bias * gain + shift)


def _rows(output: Tensor, layer: QuantizedLayer) -> Tensor:
    """Return a layer's output as rows [n, channels]."""
    return (output.movedim(1, -1) if isinstance(layer.layer, nn.Conv2d) else output).flatten(0, -2)


@contextmanager
def _outputs(unit: nn.Module, names: list[str]) -> Iterator[dict[str, Tensor]]:
    """Keep what layers of a unit put out inside the `with`, by name."""
    found: dict[str, Tensor] = {}
    hooks = [
        unit.get_submodule(name).register_forward_hook(
            lambda _module, _arguments, output, name=name: found.__setitem__(name, output)
        )
        for name in names
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
