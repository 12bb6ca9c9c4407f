"""The functions through which stock code multiplies matrices, where their operands stand, and what a pass computes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

Function: TypeAlias = Callable[..., Any]
"""A function of torch or a method of `Tensor`, as `torch.overrides` hands it over."""

LINEAR, CONVOLUTION, TRANSPOSED, MATMUL, EINSUM, ATTENTION = (
    "linear",
    "convolution",
    "transposed convolution",
    "matmul",
    "einsum",
    "attention",
)


@dataclass(frozen=True)
class ProductFunction:
    """kind: what it computes; names: of the operands, where they are given by keyword; swapped: right one first."""

    kind: str
    names: tuple[str, ...] = ("input", "other")
    swapped: bool = False


_WEIGHTED = ("input", "weight")
_BATCHED = ("input", "mat2")
PRODUCTS: dict[Function, ProductFunction] = {
    functional.linear: ProductFunction(LINEAR, _WEIGHTED),
    functional.conv1d: ProductFunction(CONVOLUTION, _WEIGHTED),
    functional.conv2d: ProductFunction(CONVOLUTION, _WEIGHTED),
    functional.conv3d: ProductFunction(CONVOLUTION, _WEIGHTED),
    functional.conv_transpose2d: ProductFunction(TRANSPOSED, _WEIGHTED),
    torch.matmul: ProductFunction(MATMUL),
    Tensor.matmul: ProductFunction(MATMUL),
    Tensor.__matmul__: ProductFunction(MATMUL),
    Tensor.__rmatmul__: ProductFunction(MATMUL, swapped=True),
    torch.bmm: ProductFunction(MATMUL, _BATCHED),
    Tensor.bmm: ProductFunction(MATMUL, _BATCHED),
    torch.mm: ProductFunction(MATMUL, _BATCHED),
    Tensor.mm: ProductFunction(MATMUL, _BATCHED),
    torch.einsum: ProductFunction(EINSUM),
    functional.scaled_dot_product_attention: ProductFunction(ATTENTION, ("query", "key", "value")),
}
OPERANDS = {
    ATTENTION: ("query", "key", "softmax", "value"),
    LINEAR: ("input", "weight"),
    CONVOLUTION: ("input", "weight"),
    TRANSPOSED: ("input", "weight"),
}
"""What the operands of a product are called; of the others: left and right."""
SOFTMAX: frozenset[Function] = frozenset({torch.softmax, Tensor.softmax, functional.softmax})
UNKNOWN: frozenset[Function] = frozenset(
    {
        torch.addmm,
        torch.addbmm,
        torch.baddbmm,
        torch.tensordot,
        torch.inner,
        torch.mv,
        torch.dot,
        torch.chain_matmul,
        torch.linalg.multi_dot,
        functional.bilinear,
        functional.conv_transpose1d,
        functional.conv_transpose3d,
        functional.multi_head_attention_forward,
        Tensor.addmm,
        Tensor.addbmm,
        Tensor.baddbmm,
        Tensor.mv,
        Tensor.dot,
        Tensor.inner,
    }
)
"""Products that no stock classifier of timm computes; a model that does is refused."""


def operands(function: ProductFunction, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors a call multiplies: left and right one, or query, key and value."""
    if function.kind == EINSUM:
        given = arguments[1:]
        found = list(given[0]) if len(given) == 1 and isinstance(given[0], list | tuple) else list(given)
    else:
        count = len(function.names)
        found = [*arguments[:count], *(options[name] for name in function.names[len(arguments) :])]
    return found[::-1] if function.swapped else found


def replaced(
    function: ProductFunction, arguments: tuple[Any, ...], options: Mapping[str, Any], values: list[Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a call's arguments with other tensors in the place of its operands."""
    if function.kind == EINSUM:
        return (arguments[0], *values), dict(options)
    values = values[::-1] if function.swapped else values
    count = min(len(function.names), len(arguments))
    named = dict(zip(function.names[count:], values[count:], strict=True))
    return (*values[:count], *arguments[count:]), {**options, **named}


def macs(kind: str, tensors: list[Tensor], output: Tensor, equation: str = "") -> list[int]:
    """Return the multiply-accumulates of a call: of one product, or of the two that attention consists of.

    equation: an einsum's, without an ellipsis.
    """
    if kind == ATTENTION:
        query, key, value = tensors
        scores = query.numel() * key.shape[-2]
        return [scores, scores // query.shape[-1] * value.shape[-1]]
    if kind == EINSUM:
        letters = equation.replace(" ", "").partition("->")[0].replace(",", "")
        sizes = [size for tensor in tensors for size in tensor.shape]
        return [math.prod(dict(zip(letters, sizes, strict=True)).values())]
    if kind == TRANSPOSED:
        return [tensors[0].numel() * tensors[1][0].numel()]
    return [output.numel() * (tensors[0].shape[-1] if kind == MATMUL else tensors[1][0].numel())]


@dataclass
class Product:
    """A matrix product of one forward pass.

    owner: name of the module whose forward computes it; index: its number among those its owner computes itself;
    layer: name of the linear or convolution layer whose weight is the right operand, if there is one; functional:
    whether the owner multiplies with that weight itself, by a function; macs: of one image; calls: how many times a
    pass comes here; softmax: which operand is a softmax output ("left", "right" or ""), of attention the one made
    inside; maps: that operand's shape; varies: whether an operand depends on the image; scale: what fused attention
    multiplies its scores with, 1 for all else.
    """

    owner: str
    index: int
    kind: str
    layer: str | None
    functional: bool
    macs: list[int]
    softmax: str = ""
    varies: bool = True
    calls: int = 1
    maps: tuple[int, ...] = ()
    scale: float = 1.0

    @property
    def operands(self) -> tuple[str, ...]:
        """What its operands are called: those of two products for fused attention."""
        return OPERANDS.get(self.kind, ("left", "right"))

    @property
    def left(self) -> str:
        """Why it stays in floating point, nothing if it does not."""
        if not self.varies:
            return "the same for every image"
        return "computed several times a pass, of different operands" if self.calls > 1 else ""

    @property
    def name(self) -> str:
        """Its name in records: the layer's, or its owner's with its number."""
        return self.layer or f"{self.owner} {self.index}".strip()


@dataclass
class Trace:
    """What a dry run saw.

    products: in the order of computation; norms: layer -> the LayerNorm that feeds it and nothing else; activated:
    layers whose input a GELU puts out; images: layers whose input is the image; calls: of every module; several:
    modules that take more than their first argument from the images; shapes: what a module was given (first argument)
    and gave, None for what is no single tensor.
    """

    products: list[Product] = field(default_factory=list)
    norms: dict[str, str] = field(default_factory=dict)
    activated: set[str] = field(default_factory=set)
    images: set[str] = field(default_factory=set)
    calls: Counter[str] = field(default_factory=Counter)
    several: set[str] = field(default_factory=set)
    shapes: dict[str, tuple[tuple[int, ...] | None, tuple[int, ...] | None]] = field(default_factory=dict)
