"""`erq`: ERQ (ICML 2024), closed-form reduction of the quantization error on top of RepQ-ViT's quantizers.

Layer by layer, in one pass through the network quantized so far: ridge regression from the quantized input to
the output of the layer in floating point gives a new weight and bias (activation error); then the weight is
rounded half by half, with flips of single roundings and ridge compensation by the rest (weight error). The
output is the layer's own on its unquantized input, not the floating-point model's (inferred: on DeiT-T the
latter did harm). The penalty of both is 0.1 times a coefficient, on sums over all tokens (inferred).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from methods.backends.repq import reparameterized
from methods.bits import Bits
from methods.contracts import Backend, QuantizationContext
from methods.errors import UsageError
from methods.quant.insert import fold_weights, quantized_layers
from methods.quant.layers import QuantizedLayer
from methods.quant.quantizers.uniform import UniformQuantizer
from methods.quant.ridge import Moments, round_by_halves


@dataclass(frozen=True)
class ErqConfig:
    """Settings of the two reductions; defaults are those of the published code."""

    coefficient: float = 1e4
    """Ten times the penalty of ridge regression, for sums over the tokens of 32 images."""
    flips: int = 100
    """Most flips of a rounding per output and half (0 rounds to nearest)."""

    def __post_init__(self) -> None:
        if self.coefficient <= 0 or self.flips < 0:
            raise UsageError("erq needs coefficient > 0 and flips >= 0.")


class Erq(Backend):
    """RepQ-ViT's quantizers, ridge regression, rounding refinement."""

    name = "erq"
    version = 2
    paper = "ERQ (arXiv 2407.06794; ICML 2024)"
    config_class = ErqConfig
    space: ClassVar = {
        "coefficient": {"min": 1e2, "max": 1e6, "scaling": "log"},
        "flips": {"min": 0, "max": 200},
    }

    def image_passes(self, config: Any, images: int) -> float:
        """Count three forward passes per image, one of them for the regressions."""
        return float(images)

    def quantize(
        self, model: nn.Module, images: Tensor, bits: Bits, config: Any, context: QuantizationContext
    ) -> nn.Module:
        """Calibrate and reparameterize, then regress and round layer by layer."""
        quantized = reparameterized(model, images, bits, context.space)
        if not bits.float:
            reduce_errors(quantized, images, config, context)
        fold_weights(quantized)
        return quantized


def reduce_errors(
    quantized: nn.Module, images: Tensor, config: ErqConfig, context: QuantizationContext
) -> list[tuple[QuantizedLayer, Tensor]]:
    """Go through the quantized network once; before each layer runs, fit it to what comes in.

    The pass goes on through the fitted layer, so the next one sees what it leaves. Returns the layers with their
    weights between regression and rounding.
    """
    layers = [layer for _, layer in quantized_layers(quantized)]
    regressed: list[tuple[QuantizedLayer, Tensor]] = []
    before = [
        layer.register_forward_pre_hook(partial(_fit, config, regressed, partial(context.report, done, len(layers))))
        for done, layer in enumerate(layers, start=1)
    ]
    with torch.no_grad():
        quantized(images)
    for hook in before:
        hook.remove()
    return regressed


def _fit(
    config: ErqConfig,
    regressed: list[tuple[QuantizedLayer, Tensor]],
    report: Callable[[], None],
    quantized: nn.Module,
    arguments: tuple[Tensor],
) -> None:
    """Give a layer the weight and bias that bring its quantized output nearest to its own in floating point."""
    assert isinstance(quantized, QuantizedLayer)
    report()
    if not _regressable(quantized.layer):
        return
    exact = arguments[0]
    inputs = exact if quantized.inputs is None else quantized.inputs(exact)
    moments = Moments.of(*_rows(quantized.layer, inputs, quantized.layer(exact)))
    regressed.append((quantized, reduce_layer_error(quantized, moments, config)))


def _regressable(layer: nn.Linear | nn.Conv2d) -> bool:
    """Whether every output is a sum over all inputs of a token or patch; other convolutions stay as they are."""
    if isinstance(layer, nn.Linear):
        return True
    return type(layer).forward is nn.Conv2d.forward and layer.groups == 1 and not isinstance(layer.padding, str)


def reduce_layer_error(quantized: QuantizedLayer, moments: Moments, config: ErqConfig) -> Tensor:
    """Regress and round one layer, given the moments of its quantized inputs and its targets.

    Returns the weight that regression found, before rounding.
    """
    layer, penalty = quantized.layer, 0.1 * config.coefficient
    weight = regressed = moments.ridge(layer.weight.double().flatten(1), penalty)
    if quantized.weights is not None:
        assert isinstance(quantized.weights, UniformQuantizer)
        quantized.weights.fit(weight.reshape(layer.weight.shape))
        weight = round_by_halves(weight, quantized.weights, moments.gram, penalty, config.flips)
    layer.weight.copy_(weight.reshape(layer.weight.shape))
    if layer.bias is None:
        layer.bias = nn.Parameter(layer.weight.new_empty(len(layer.weight)), requires_grad=False)
    layer.bias.copy_(moments.bias(weight))
    return regressed.reshape(layer.weight.shape).to(layer.weight.dtype)


def _rows(layer: nn.Linear | nn.Conv2d, inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return inputs [n, in] and outputs [n, out] of a layer, one row per token; a convolution sees patches."""
    if isinstance(layer, nn.Linear):
        return inputs.flatten(0, -2), outputs.flatten(0, -2)
    patches = nn.functional.unfold(inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # type: ignore[arg-type]
    return patches.transpose(1, 2).flatten(0, 1), outputs.flatten(2).transpose(1, 2).flatten(0, 1)
