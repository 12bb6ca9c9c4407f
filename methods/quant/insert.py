"""Put quantizers into a stock timm model, without touching its code.

A dry run tells which products a forward pass computes, and where (`methods.models.trace`). Every linear or convolution
layer becomes a `QuantizedLayer`; whatever else multiplies gets quantizers at its call site (`methods.models.calls`).
In ViT and Swin the operands of attention are reached at the layers beside it, as the published methods have it: the
q/k/v projection's output is quantized slice by slice, and the softmax output passes through `attn_drop`, where a
quantizer takes the place of the inactive dropout.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn

from methods.bits import FLOAT, Bits
from methods.contracts import ImageSpace
from methods.errors import UsageError
from methods.models.architecture import named_attentions, product_layers
from methods.models.calls import CallSite, watch
from methods.models.functions import Product, Trace
from methods.models.trace import separate, trace
from methods.quant.layers import QuantizedCall, QuantizedLayer
from methods.quant.quantizers.base import Quantizer
from methods.quant.recipe import Maker, Recipe, format_recipe, made


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def insert_quantizers(model: nn.Module, bits: Bits, recipe: Recipe, space: ImageSpace) -> nn.Module:
    """Return a copy of `model` with uncalibrated activation quantizers and fitted weight quantizers.

    A layer's bits are those of its weight and its input, those of a module that multiplies by itself those of the
    operands; where bits name a number format, its recipe takes the place of the given one. Images, of the pixels
    `space`, have eight bits whatever the others have. Raises UsageError for a model that cannot be quantized. With 32
    bits throughout the copy is the plain model.
    """
    quantized = copy.deepcopy(model).requires_grad_(False)
    if bits.float:
        return quantized
    separate(quantized)
    found = {name: (a, bits.of(name)) for name, a in named_attentions(quantized)}
    attentions = {name: pair for name, pair in found.items() if pair[1].activations != FLOAT}
    seen = trace(model)
    operands = {
        f"{name}.qkv": _operands(a, own.activations, _recipe(own, recipe)) for name, (a, own) in attentions.items()
    }
    _replace_layers(quantized, bits, recipe, recipe.inputs(seen, space), seen, operands)
    for attention, own in attentions.values():
        chosen = _recipe(own, recipe)
        attention.attn_drop = chosen.operand(chosen.attention, own.activations, attention.num_heads, 1)
        attention.fused_attn = False
    _watch_products(quantized, bits, recipe, seen)
    vars(quantized)["left_in_float"] = {p.name: p.left for p in seen.products if p.left}
    note_placement(quantized, "products", bits)
    return quantized


def _replace_layers(
    model: nn.Module,
    bits: Bits,
    recipe: Recipe,
    maker: Callable[[str], Maker],
    seen: Trace,
    operands: dict[str, list[nn.Module]],
) -> None:
    """Put a `QuantizedLayer` in the place of every layer that takes part; one left as it is gets no quantizers."""
    products = {product.layer: product for product in seen.products if product.layer is not None}
    for name, layer in product_layers(model):
        if name not in products:
            continue
        own = Bits(FLOAT, FLOAT) if products[name].left else bits.of(name)
        chosen = _recipe(own, recipe)
        inputs = made(chosen.activations if own.number_format else maker(name), own.activations)
        weights = made(chosen.weights, own.weights)
        norm, image = seen.norms.get(name), name in seen.images
        replace(model, name, QuantizedLayer(layer, inputs, weights, operands.get(name), norm, image))


def _recipe(own: Bits, recipe: Recipe) -> Recipe:
    """Return a layer's recipe: its number format's, if it has one."""
    return format_recipe(own.number_format) if own.number_format else recipe


def _watch_products(model: nn.Module, bits: Bits, recipe: Recipe, seen: Trace) -> None:
    """Give every module that multiplies by itself its sites; one of 32 bits is watched too, for the others' sake."""
    projected = {name for name, _ in named_attentions(model)}
    sites: dict[str, list[CallSite]] = {}
    for product in seen.products:
        if product.owner not in projected and (product.layer is None or product.functional):
            sites.setdefault(product.owner, [])
        if product.owner not in projected and product.layer is None and not product.left:
            sites[product.owner].append(_site(product, bits.of(product.owner), recipe))
    for name, own in sites.items():
        watch(model.get_submodule(name), own)


def _site(product: Product, bits: Bits, recipe: Recipe) -> QuantizedCall:
    """Return the quantizers of a product's operands; raises UsageError for those per head or block, unknown here."""
    if recipe.per_head:
        raise UsageError("Quantizers per head are for stock ViT, DeiT and Swin alone.")
    if bits.number_format:
        raise UsageError("Number formats are for linear layers and stock ViT, DeiT and Swin alone.")
    makers = dict.fromkeys(product.operands, recipe.activations)
    if product.softmax:
        softmax, other = product.operands[-2:] if product.softmax == "left" else product.operands[::-1]
        makers |= {softmax: recipe.attention, other: recipe.values or recipe.activations}
    quantizers = {name: made(maker, bits.activations) for name, maker in makers.items()}
    if "weight" in quantizers:
        quantizers["weight"] = made(recipe.weights, bits.weights)
    placed = {name: quantizer for name, quantizer in quantizers.items() if quantizer is not None}
    return QuantizedCall(product.index, product.kind, placed)


def note_placement(quantized: nn.Module, places: str, bits: Bits) -> None:
    """Keep on a model where its quantizers are, for who puts them there again (`methods.quant.placement`)."""
    vars(quantized)["placement"] = (places, bits)


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
