"""Put quantizers into a stock timm transformer, without touching its code.

Every linear and convolution layer is replaced by a `QuantizedLayer`. The operands of the two attention
products are reached from outside: the q/k/v projection's output is quantized slice by slice, and the
softmax output passes through `attn_drop`, where a quantizer takes the place of the inactive dropout.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn

from methods.bits import FLOAT, Bits
from methods.models.architecture import check_supported, named_attentions, product_layers
from methods.quant.layers import QuantizedLayer
from methods.quant.quantizers.base import Quantizer
from methods.quant.recipe import Recipe, made


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def insert_quantizers(model: nn.Module, bits: Bits, recipe: Recipe) -> nn.Module:
    """Return a copy of `model` with uncalibrated activation quantizers and fitted weight quantizers.

    A layer's bits are those of its weight and its input, an attention module's those of the operands of its two
    products. Raises UsageError for a model family that is not supported. With 32 bits throughout the copy is
    the plain model.
    """
    check_supported(model)
    quantized = copy.deepcopy(model).requires_grad_(False)
    if bits.float:
        return quantized
    widths = {name: bits.of(name).activations for name, _ in named_attentions(quantized)}
    attentions = [(a, widths[name]) for name, a in named_attentions(quantized) if widths[name] != FLOAT]
    operands = {id(a.qkv): _operands(a, width, recipe) for a, width in attentions}
    maker = recipe.inputs(quantized)
    for name, layer in product_layers(quantized):
        inputs = made(maker(name), bits.of(name).activations)
        weights = made(recipe.weights, bits.of(name).weights)
        replace(quantized, name, QuantizedLayer(layer, inputs, weights, operands.get(id(layer))))
    for attention, width in attentions:
        attention.attn_drop = recipe.operand(recipe.attention, width, attention.num_heads, 1)
        attention.fused_attn = False
    return quantized


def _operands(attention: Any, width: int, recipe: Recipe) -> list[nn.Module]:
    """Return what the query, key and value slices of a projection's output pass through.

    Where a norm follows the query and the key, their quantizers go behind it, next to the product.
    """
    makers = (recipe.activations, recipe.activations, recipe.values or recipe.activations)
    operand = partial(recipe.operand, bits=width, heads=attention.num_heads)
    places: list[nn.Module] = [operand(maker, dim=-1) for maker in makers]
    for index, name in enumerate(("q_norm", "k_norm")):
        norm = getattr(attention, name, None)
        if norm is not None and not isinstance(norm, nn.Identity):
            setattr(attention, name, nn.Sequential(norm, operand(makers[index], dim=1)))
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


@contextmanager
def weights_in_floating_point(model: nn.Module) -> Iterator[None]:
    """Compute the layers of a model whose weights are not folded yet with these as they are."""
    layers = [layer for _, layer in quantized_layers(model) if not layer.folded]
    for layer in layers:
        layer.folded = True
    try:
        yield
    finally:
        for layer in layers:
            layer.folded = False
