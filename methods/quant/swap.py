"""Put quantizers into a stock timm transformer, without touching its code.

Every linear and convolution layer is replaced by a `QuantizedLayer`. The operands of the two attention
products are reached from outside: the q/k/v projection's output is quantized slice by slice, and the
softmax output passes through `attn_drop`, where a quantizer takes the place of the inactive dropout.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn

from methods.architecture import attention_modules, check_supported, normed_layers
from methods.quant.bits import FLOAT, Bits
from methods.quant.layers import QuantizedLayer
from methods.quant.quantizers import Quantizer

_HOOKED = {"attn_drop": "softmax"}
_NORMED = {"q_norm": "query", "k_norm": "key"}


Maker: TypeAlias = Callable[[int], Quantizer]
"""Makes a quantizer for a bit-width."""


@dataclass(frozen=True)
class Recipe:
    """Which quantizer goes where.

    attention: the softmax output; normed: inputs of layers that a LayerNorm feeds (`normed_layers`);
    images: the input of convolutions; activations: all other operands, and those two where they are None.
    """

    weights: Maker
    activations: Maker
    attention: Maker
    normed: Maker | None = None
    images: Maker | None = None

    def inputs(self, layer: nn.Module, normed: bool) -> Maker:
        """Return what makes the quantizer of a layer's input."""
        special = self.images if isinstance(layer, nn.Conv2d) else self.normed if normed else None
        return special or self.activations


def _made(maker: Maker, bits: int) -> Quantizer | None:
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
    quantized = copy.deepcopy(model).requires_grad_(False)
    if bits.float:
        return quantized
    attentions = attention_modules(quantized)
    operands = {id(a.qkv): _operands(a, bits, recipe) for a in attentions} if bits.activations != FLOAT else {}
    normed = {pair.layer for pair in normed_layers(quantized)}
    layers = [(n, m) for n, m in quantized.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    for name, layer in layers:
        inputs = _made(recipe.inputs(layer, name in normed), bits.activations)
        weights = _made(recipe.weights, bits.weights)
        _replace(quantized, name, QuantizedLayer(layer, inputs, weights, operands.get(id(layer))))
    if bits.activations != FLOAT:
        for attention in attentions:
            attention.attn_drop = recipe.attention(bits.activations)
            attention.fused_attn = False
    return quantized


def _operands(attention: Any, bits: Bits, recipe: Recipe) -> list[nn.Module]:
    """Return what the query, key and value slices of a projection's output pass through.

    Where a norm follows the query and the key, their quantizers go behind it, next to the product.
    """
    places: list[nn.Module] = [recipe.activations(bits.activations) for _ in range(3)]
    for index, name in enumerate(("q_norm", "k_norm")):
        norm = getattr(attention, name, None)
        if norm is not None and not isinstance(norm, nn.Identity):
            setattr(attention, name, nn.Sequential(norm, places[index]))
            places[index] = nn.Identity()
    return places


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
        parent, _, child = name.rpartition(".")
        if child in _HOOKED:
            add(f"{parent} {_HOOKED[child]}", module)
        elif child in _NORMED:
            add(f"{parent} {_NORMED[child]}", module[1] if isinstance(module, nn.Sequential) else None)
    return rows
