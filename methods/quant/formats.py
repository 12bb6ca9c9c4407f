"""Which quantizers a published number format stands for: one line each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from methods.errors import unknown_name
from methods.quant.quantizers.block_float import FloatQuantizer, FP8Quantizer, MXQuantizer, NVFP4Quantizer
from methods.quant.quantizers.floating_point import E2M1, E2M3, E4M3
from methods.quant.recipe import Recipe

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
