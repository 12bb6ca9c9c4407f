"""The plainest recipe, which several backends start from and students of synthesis are made with: min-max ranges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import nn

from methods.bits import FLOAT
from methods.models.architecture import activated_layers, normed_layers, product_layers
from methods.quant.quantizers.base import Quantizer
from methods.quant.quantizers.ranges import MinMaxRange
from methods.quant.quantizers.uniform import UniformQuantizer

Maker: TypeAlias = Callable[[int], Quantizer]
"""Makes a quantizer for a bit-width."""


@dataclass(frozen=True)
class Recipe:
    """Which quantizer goes where.

    attention: the softmax output; normed: inputs of layers that a LayerNorm feeds (`normed_layers`); activated: of
    those that a GELU feeds (`activated_layers`); images: the input of convolutions; activations: all other operands,
    and those three where they are None.
    """

    weights: Maker
    activations: Maker
    attention: Maker
    normed: Maker | None = None
    activated: Maker | None = None
    images: Maker | None = None

    def inputs(self, model: nn.Module) -> Callable[[str], Maker]:
        """Return what gives, for a layer of `model` by its name, the maker of its input's quantizer."""
        special = {pair.layer: self.normed for pair in normed_layers(model)}
        special |= dict.fromkeys(activated_layers(model), self.activated)
        special |= {name: self.images for name, layer in product_layers(model) if isinstance(layer, nn.Conv2d)}
        return lambda name: special.get(name) or self.activations


def made(maker: Maker, bits: int) -> Quantizer | None:
    """Return the quantizer, None for floating point."""
    return None if bits == FLOAT else maker(bits)


MIN_MAX = Recipe(
    weights=lambda bits: UniformQuantizer(bits, MinMaxRange(), axis=0, symmetric=True),
    activations=lambda bits: UniformQuantizer(bits, MinMaxRange()),
    attention=lambda bits: UniformQuantizer(bits, MinMaxRange()),
)
"""Weights symmetric per output channel, all activations asymmetric per tensor, the softmax output too."""
