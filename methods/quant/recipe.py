"""Recipes, which quantizer goes where: of min-max ranges, which students of synthesis have too; of number formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from methods.bits import FLOAT
from methods.contracts import ImageSpace
from methods.errors import unknown_name
from methods.models.functions import Trace
from methods.quant.quantizers.base import Quantizer
from methods.quant.quantizers.block_float import FloatQuantizer, FP8Quantizer, MXQuantizer, NVFP4Quantizer
from methods.quant.quantizers.floating_point import E2M1, E2M3, E4M3
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


class HeadwiseQuantizer(nn.Module):
    """One quantizer per attention head, where the others have one for all: the protocol of FIMA-Q and GLF-Q.

    Quantizes the equal slices of a tensor along `dim`, one per head, each by a quantizer of its own.

    dim is that of the heads, or one that holds their channels side by side.
    """

    def __init__(self, maker: Callable[[int], Quantizer], bits: int, heads: int, dim: int) -> None:
        super().__init__()
        self.bits, self.dim = bits, dim
        self.heads = nn.ModuleList(maker(bits) for _ in range(heads))

    def forward(self, x: Tensor) -> Tensor:
        """Return x [...] with every head on its own grid, same shape."""
        slices = x.chunk(len(self.heads), dim=self.dim)
        return torch.cat([quantizer(part) for quantizer, part in zip(self.heads, slices, strict=True)], dim=self.dim)

    def describe(self) -> str:
        """Name the grid and that every head has one."""
        first = self.heads[0]
        assert isinstance(first, Quantizer)
        return f"{first.describe()}, per head"


# Which quantizers a published number format stands for: one line each.
_MAKERS: dict[str, Callable[[int | None, bool], FloatQuantizer]] = {
    "mxfp4": lambda axis, stored: MXQuantizer(E2M1, 32, axis, stored),
    "mxfp6": lambda axis, stored: MXQuantizer(E2M3, 32, axis, stored),
    "mxfp8": lambda axis, stored: MXQuantizer(E4M3, 32, axis, stored),
    "nvfp4": lambda axis, stored: NVFP4Quantizer(E2M1, 16, axis, stored),
    "fp8": lambda axis, stored: FP8Quantizer(E4M3, None, axis, stored),
}


def format_recipe(name: str) -> Recipe:
    """Return the recipe of a format for all operands of all products.

    Blocks lie along what a product sums over: channels of layers' inputs, queries and keys, tokens of the softmax
    output and of values; for images along rows of pixels (inferred). Raises UsageError for an unknown name.
    """
    if name not in _MAKERS:
        raise unknown_name("number format", name, _MAKERS)
    make = partial(_made, name)
    return Recipe(
        weights=make(None, True), activations=make(-1, False), attention=make(-1, False), values=make(-2, False)
    )


def _made(name: str, axis: int | None, stored: bool) -> Callable[[int], FloatQuantizer]:
    return lambda _bits: _MAKERS[name](axis, stored)
