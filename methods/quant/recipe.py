"""The plainest recipe, which several backends start from and students of synthesis are made with: min-max ranges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from methods.bits import FLOAT
from methods.contracts import ImageSpace
from methods.models.functions import Trace
from methods.quant.headwise import HeadwiseQuantizer
from methods.quant.quantizers.base import Quantizer
from methods.quant.quantizers.ranges import KnownRange, MinMaxRange
from methods.quant.quantizers.uniform import UniformQuantizer

_IMAGE_BITS = 8

Maker: TypeAlias = Callable[[int], Quantizer]
"""Makes a quantizer for a bit-width."""


@dataclass(frozen=True)
class Recipe:
    """Which quantizer goes where; no recipe has a say in the image (`image_maker`)."""

    weights: Maker
    activations: Maker
    """All operands but weights that nothing below is for, or for which it is None."""
    attention: Maker
    """The softmax output."""
    normed: Maker | None = None
    """Inputs of layers that a LayerNorm feeds (`Trace.norms`)."""
    activated: Maker | None = None
    """Inputs of layers that a GELU feeds (`Trace.activated`)."""
    values: Maker | None = None
    """The value operand of attention."""
    per_head: bool = False
    """Whether every head has quantizers of its own for the operands of the two attention products (a protocol of its
    own: all else is per tensor)."""

    def inputs(self, seen: Trace, space: ImageSpace) -> Callable[[str], Maker]:
        """Return what gives, for a layer by its name, the maker of its input's quantizer."""
        special = dict.fromkeys(seen.norms, self.normed)
        special |= dict.fromkeys(seen.activated, self.activated)
        special |= dict.fromkeys(seen.images, image_maker(space))
        return lambda name: special.get(name) or self.activations

    def operand(self, maker: Maker, bits: int, heads: int, dim: int) -> Quantizer | HeadwiseQuantizer:
        """Return the quantizer of an operand of an attention product whose heads lie along `dim`."""
        return HeadwiseQuantizer(maker, bits, heads, dim) if self.per_head else maker(bits)


def image_maker(space: ImageSpace) -> Maker:
    """Return what makes the quantizer of the images: eight bits, as their pixels have, over the box of all pixels.

    The eight bits, whatever others have, are the sibling codes' (RepQ-ViT, I&S-ViT, AdaLog). The box is known without
    data, so that calibration images of low contrast clip no other images.
    """
    low, high = space.bounds()
    box = KnownRange(float(low.min()), float(high.max()))
    return lambda _bits: UniformQuantizer(_IMAGE_BITS, box)


def made(maker: Maker, bits: int) -> Quantizer | None:
    """Return the quantizer, None for floating point."""
    return None if bits == FLOAT else maker(bits)


MIN_MAX = Recipe(
    weights=lambda bits: UniformQuantizer(bits, MinMaxRange(), axis=0, symmetric=True),
    activations=lambda bits: UniformQuantizer(bits, MinMaxRange()),
    attention=lambda bits: UniformQuantizer(bits, MinMaxRange()),
)
"""Weights symmetric per output channel, all activations asymmetric per tensor, the softmax output too."""
