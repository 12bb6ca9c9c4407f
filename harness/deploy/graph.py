"""Tidies the graph of a traced quantized model for runtimes that compute in integers.

Tracing leaves every quantizer where the module has it. Two places hide a product's operand from a compiler: a fused
q/k/v projection, whose slices are quantized and joined again before attention takes them apart, and whatever moves or
scales values between a quantizer and the product. Quantizing commutes with moving values, and a factor can go into the
scale: the pairs end up at the products, with nothing between.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from methods.quant.lower import OPERATIONS

Node: TypeAlias = Any
"""An fx.Node, whose arguments may be anything."""
_ATEN: Any = torch.ops.aten
QUANTIZE, DEQUANTIZE = OPERATIONS.quantize_per_tensor.default, OPERATIONS.dequantize_per_tensor.default
_JOIN = _ATEN.cat.default
_TURNS = {_ATEN.permute.default, _ATEN.transpose.int}
_MOVES = {
    operator.getitem,
    _ATEN.chunk.default,
    _ATEN.flatten.using_ints,
    _ATEN.permute.default,
    _ATEN.reshape.default,
    _ATEN.select.int,
    _ATEN.slice.Tensor,
    _ATEN.split.Tensor,
    _ATEN.transpose.int,
    _ATEN.unbind.int,
    _ATEN.unflatten.int,
    _ATEN.view.default,
}
"""Operations whose results hold values of their first argument, each where its place says."""


def tidy(graph: fx.GraphModule, images: Tensor) -> None:
    """Bring the pairs of a traced model to its products, in place; images: a batch it runs on, [n, C, H, W]."""
    _take_apart(graph, images)
    _fold_factors(graph)
    _turn_codes(graph)
    _forget_unused(graph)


class _Slices(fx.Interpreter):
    """Runs a graph, and notes for what is made of joined quantized tensors which of them each value comes from."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.found: dict[Node, Any] = {}

    def run_node(self, n: Node) -> Any:
        """Run one operation, and beside it move the numbers as it moves the values."""
        result = super().run_node(n)
        arguments, options = self.fetch_args_kwargs_from_env(n)
        if n.target is _JOIN and all(_dequantized(part) for part in n.args[0]):
            parts = [torch.full_like(part, index, dtype=torch.uint8) for index, part in enumerate(arguments[0])]
            self.found[n] = torch.cat(parts, *arguments[1:], **options)
        elif n.target in _MOVES and n.args[0] in self.found:
            self.found[n] = n.target(self.found[n.args[0]], *arguments[1:], **options)
        return result


def _dequantized(value: object) -> bool:
    return isinstance(value, fx.Node) and value.target is DEQUANTIZE


def _take_apart(graph: fx.GraphModule, images: Tensor) -> None:
    """Quantize what attention takes out of a joined tensor instead of the slices that were joined."""
    slices = _Slices(graph)
    with torch.no_grad():
        slices.run(images)
    for join in [node for node in slices.found if node.target is _JOIN]:
        ends = list(_ends(join, slices.found))
        whole = _cut_from(join)
        if whole is None or any(index is None for _, index in ends):
            continue
        for node, index in ends:
            _quantize_behind(node, join.args[0][index])
        join.replace_all_uses_with(whole)
    _tidied(graph)


def _ends(node: Node, found: dict[Node, Any]) -> Iterator[tuple[Node, int | None]]:
    """Yield the first nodes behind `node` that hold values of one slice alone, and None where there is none."""
    for user in node.users:
        numbers = found.get(user)
        if isinstance(numbers, Tensor) and int(numbers.min()) == int(numbers.max()):
            yield user, int(numbers.min())
        elif numbers is None:
            yield user, None
        else:
            yield from _ends(user, found)


def _cut_from(join: Node) -> Node | None:
    """Return the tensor whose slices were quantized and joined, None if they are not all of one, in their order."""
    sources = [part.args[0].args[0] for part in join.args[0]]
    cut = {source.args[0] for source in sources if source.target is operator.getitem}
    if len(cut) != 1 or [source.args[1] for source in sources] != list(range(len(sources))):
        return None
    whole: Node = cut.pop().args[0]
    return whole


def _quantize_behind(node: Node, pattern: Node) -> None:
    """Put a pair like the one that ends in `pattern` behind a node."""
    first = pattern.args[0]
    assert isinstance(first, fx.Node)
    with node.graph.inserting_after(node):
        codes = node.graph.call_function(QUANTIZE, (node, *first.args[1:]))
    with node.graph.inserting_after(codes):
        values = node.graph.call_function(DEQUANTIZE, (codes, *pattern.args[1:]))
    codes.meta, values.meta = dict(first.meta), dict(pattern.meta)
    node.replace_all_uses_with(values, delete_user_cb=lambda user: user is not codes)


def _fold_factors(graph: fx.GraphModule) -> None:
    """Multiply the scale instead of what was dequantized by it, where nothing else takes that."""
    for node in list(graph.graph.nodes):
        if node.target is _ATEN.mul.Tensor and _dequantized(node.args[0]) and len(node.args[0].users) == 1:
            values, factor = node.args
            if isinstance(factor, int | float) and factor > 0:
                codes, scale, *grid = values.args
                values.args = (codes, scale * factor, *grid)
                node.replace_all_uses_with(values)
    _tidied(graph)


def _turn_codes(graph: fx.GraphModule) -> None:
    """Turn codes instead of the values that come of them, so that these go straight into a product."""
    for node in list(graph.graph.nodes):
        if node.target in _TURNS and _dequantized(node.args[0]) and len(node.args[0].users) == 1:
            values = node.args[0]
            node.replace_all_uses_with(values)
            node.args = (values.args[0], *node.args[1:])
            values.args = (node, *values.args[1:])
            node.append(values)
    _tidied(graph)


def _forget_unused(graph: fx.GraphModule) -> None:
    """Delete parameters and buffers that no operation takes: the weights whose integers are there."""
    used = {node.target for node in graph.graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in (*graph.named_parameters(), *graph.named_buffers()) if name not in used]:
        parent, _, child = name.rpartition(".")
        delattr(graph.get_submodule(parent), child)


def _tidied(graph: fx.GraphModule) -> None:
    graph.graph.eliminate_dead_code()
    graph.recompile()
