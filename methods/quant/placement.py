"""Quantizers put back where they were: a plain model and a list of quantizers become the quantized model again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import nn

from methods.bits import FLOAT, Bits
from methods.contracts import ImageSpace
from methods.quant.every_tensor import insert_everywhere
from methods.quant.insert import insert_quantizers, quantized_layers, replace
from methods.quant.layers import QuantizedLayer
from methods.quant.quantizers.base import Quantizer
from methods.quant.recipe import MIN_MAX

Placed: TypeAlias = dict[str, Quantizer]
"""Quantizers by the name of the module they are in a model."""
_ANY = ImageSpace(1, 1, (0.5,), (0.5,))  # the image's own quantizer is put back like all others, whatever its box
PLACES: dict[str, Callable[[nn.Module, Bits], nn.Module]] = {
    "products": lambda model, bits: insert_quantizers(model, bits, MIN_MAX, _ANY),
    "every tensor": lambda model, bits: insert_everywhere(model, bits, MIN_MAX.weights, MIN_MAX.activations),
}
PLAIN = ("products", Bits(FLOAT, FLOAT))


def placement(model: nn.Module) -> tuple[str, Bits]:
    """Return where a model has its quantizers, one of PLACES, and their bits; a plain model has none."""
    found: tuple[str, Bits] = vars(model).get("placement", PLAIN)
    return found


def placed(model: nn.Module) -> Placed:
    """Return the quantizers of a model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Quantizer)}


def place(model: nn.Module, places: str, bits: Bits, quantizers: Placed) -> nn.Module:
    """Return a copy of a plain model with `quantizers` where they belong, its weights still to be filled in.

    Raises ValueError when they are not the ones that belong there.
    """
    quantized = PLACES[places](model, bits)
    surplus = set(placed(quantized)) - set(quantizers)
    if set(quantizers) - set(placed(quantized)) or not all(name.endswith(".inputs") for name in surplus):
        raise ValueError("The quantizers are not those of this model.")
    for name in surplus:  # a backend may leave the images as they are
        layer = quantized.get_submodule(name.removesuffix(".inputs"))
        assert isinstance(layer, QuantizedLayer)
        layer.inputs = None
    for name, quantizer in quantizers.items():
        replace(quantized, name, quantizer)
    for _, layer in quantized_layers(quantized):
        layer.folded = True
    return quantized
