"""Put quantizers into a stock timm transformer, without touching its code.

Every linear and convolution layer is replaced by a `QuantizedLayer`. The operands of the two attention
products are reached from outside: the q/k/v projection's output is quantized slice by slice, and the
softmax output passes through `attn_drop`, where a quantizer takes the place of the inactive dropout.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn

from methods.architecture import attention_modules, check_supported
from methods.quant.bits import FLOAT, Bits
from methods.quant.layers import QuantizedLayer
from methods.quant.quantizers import Quantizer


@dataclass(frozen=True)
class Recipe:
    """Which quantizer goes where; each maker takes a bit-width."""

    weights: Callable[[int], Quantizer]
    activations: Callable[[int], Quantizer]
    attention: Callable[[int], Quantizer]


def _made(maker: Callable[[int], Quantizer], bits: int) -> Quantizer | None:
    return None if bits == FLOAT else maker(bits)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def insert_quantizers(model: nn.Module, bits: Bits, recipe: Recipe) -> nn.Module:
    """Return a copy of `model` with uncalibrated activation quantizers and fitted weight quantizers.

    Raises UsageError for a model family that is not supported. With 32 bits on both sides the copy is
    the plain model.
    """
    check_supported(model)
    quantized = copy.deepcopy(model)
    if bits.float:
        return quantized
    projections = {id(attention.qkv) for attention in attention_modules(quantized)}
    layers = [(n, m) for n, m in quantized.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    for name, layer in layers:
        inputs = _made(recipe.activations, bits.activations)
        weights = _made(recipe.weights, bits.weights)
        operands = [_made(recipe.activations, bits.activations) for _ in range(3)]
        outputs = [q for q in operands if q is not None] if id(layer) in projections else None
        _replace(quantized, name, QuantizedLayer(layer, inputs, weights, outputs))
    for attention in attention_modules(quantized):
        quantizer = _made(recipe.attention, bits.activations)
        if quantizer is not None:
            attention.attn_drop = quantizer
            attention.fused_attn = False
    return quantized


def quantized_layers(model: nn.Module) -> Iterator[tuple[str, QuantizedLayer]]:
    """Yield the quantized layers of a model with their names."""
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLayer):
            yield name, module


def activation_quantizers(model: nn.Module) -> list[Quantizer]:
    """Return every quantizer of a model that sees activations."""
    weights = {id(layer.weights) for _, layer in quantized_layers(model)}
    return [m for m in model.modules() if isinstance(m, Quantizer) and id(m) not in weights]


def fold_weights(model: nn.Module) -> None:
    """Quantize every weight once and for all."""
    for _, layer in quantized_layers(model):
        layer.fold()


def describe(model: nn.Module) -> list[dict[str, str | int]]:
    """List what is quantized, with which quantizer and how many bits, for the record."""
    rows: list[dict[str, str | int]] = []

    def add(operation: str, quantizer: nn.Module | None) -> None:
        if isinstance(quantizer, Quantizer):
            rows.append({"operation": operation, "quantizer": quantizer.describe(), "bits": quantizer.bits})

    for name, layer in quantized_layers(model):
        add(f"{name} weight", layer.weights)
        add(f"{name} input", layer.inputs)
        for operand, quantizer in zip(("query", "key", "value"), layer.outputs, strict=False):
            add(f"{name.rpartition('.')[0]} {operand}", quantizer)
    for name, module in model.named_modules():
        add(f"{name.rpartition('.')[0]} softmax", module if name.endswith("attn_drop") else None)
    return rows
