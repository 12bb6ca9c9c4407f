"""Call sites of products that no layer holds: `@`, einsum and fused attention inside stock code, left as it is.

A module whose forward multiplies two tensors gets, in its instance's class, a forward that watches the functions which
its own code calls (`torch.overrides.TorchFunctionMode`): the operands of every product pass modules of a `CallSite`,
those of one site always the same. They may quantize, or only look. Attention computed by one fused function is written
out, so that its softmax output passes a module too. Everything else is timm's: names, parameters, code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from methods.models import functions
from methods.models.functions import Function, ProductFunction


class CallSite(nn.Module):
    """One call site: its number among its module's, the kind of product (None: any), what operands pass, by name."""

    def __init__(self, index: int, kind: str | None, parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.index, self.kind = index, kind
        self.parts = nn.ModuleDict(parts)

    def forward(self, function: Function, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> Tensor:
        """Compute the call on what its operands become; raises RuntimeError for another kind of product."""
        known = functions.PRODUCTS[function]
        if self.kind not in (known.kind, None):
            raise RuntimeError(f"Product {self.index} of a module was {self.kind} in the dry run, now {known.kind}.")
        if known.kind == functions.ATTENTION:
            return self._attention(*arguments, **options)
        return self._product(known, function, arguments, options)

    def _passed(self, operand: str, x: Tensor) -> Tensor:
        if operand not in self.parts:
            return x
        turned = operand == "weight" and self.kind == functions.TRANSPOSED  # output channels come first everywhere
        passed: Tensor = self.parts[operand](x.transpose(0, 1) if turned else x)
        return passed.transpose(0, 1) if turned else passed

    def _product(
        self, known: ProductFunction, function: Function, arguments: tuple[Any, ...], options: Mapping[str, Any]
    ) -> Tensor:
        tensors = functions.operands(known, arguments, options)
        names = functions.OPERANDS.get(known.kind, ("left", "right"))
        values = [self._passed(name, tensor) for name, tensor in zip(names, tensors, strict=True)]
        arguments, options = functions.replaced(known, arguments, options, values)
        result: Tensor = function(*arguments, **options)
        return result

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Compute softmax(scale Q K^T + mask) V, as `torch.nn.functional.scaled_dot_product_attention` defines it."""
        if is_causal or enable_gqa or dropout_p > 0:
            raise RuntimeError("Attention written out is neither causal nor grouped, and drops nothing.")
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        scores = (self._passed("query", query) * factor) @ self._passed("key", key).transpose(-2, -1)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, float("-inf"))
        elif attn_mask is not None:
            scores = scores + attn_mask
        return self._passed("softmax", scores.softmax(dim=-1)) @ self._passed("value", value)


_RUNNING: list[_Watching | None] = []
"""The watches that functions run under, the innermost last; None hides them from all."""


@contextmanager
def aside() -> Iterator[None]:
    """Hide what is computed inside the `with` from the watch it runs under: it is no call of the module's own."""
    _RUNNING.append(None)
    try:
        yield
    finally:
        _RUNNING.pop()


class StandIn(nn.Module):
    """Stands for a stock layer, whose weight it keeps; code that multiplies with that weight calls it instead.

    No watch sees what it and its hooks compute.
    """

    layer: nn.Linear | nn.Conv2d

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Run hooks and forward."""
        with aside():
            return super().__call__(*arguments, **options)


class _Watching(TorchFunctionMode):
    """Passes every product that one run of a module's own code computes through its site."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.sites: dict[int, CallSite] = {site.index: site for site in module.products}
        self.layers = {id(layer.layer.weight): layer for layer in module.children() if isinstance(layer, StandIn)}
        self.weights = {id(part.weight) for part in module.modules() if isinstance(part, nn.Linear | nn.Conv2d)}
        self.seen = 0

    def __torch_function__(
        self, function: Function, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        options = options or {}
        known = functions.PRODUCTS.get(function)
        if known is None or _RUNNING[-1] is not self:
            return function(*arguments, **options)
        with aside():
            weight = functions.operands(known, arguments, options)[1]
            layer = self.layers.get(id(weight))
            if layer is not None:
                return _through(layer, known, arguments, options)
            if id(weight) in self.weights:  # a layer's product, whichever code computes it
                return function(*arguments, **options)
            site = self.sites.get(self.seen)
            self.seen += 1
            return function(*arguments, **options) if site is None else site(function, arguments, options)


def _through(layer: StandIn, known: ProductFunction, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> Tensor:
    """Compute what stock code computes by a function with the weight of a layer: by the layer, with the bias given."""
    x = functions.operands(known, arguments, options)[0]
    bias = arguments[2] if len(arguments) > 2 else options.get("bias")
    result: Tensor = layer(x)
    return result if bias is None or bias is layer.layer.bias else result + bias


def watch(module: nn.Module, sites: list[CallSite]) -> None:
    """Let the products of a module's own code pass `sites`, in place; those without one stay as they are.

    Modules inside it that multiply too are watched as well, or are `StandIn`s, or are shielded.
    """
    module.products = nn.ModuleList(sites)
    kind: Any = type(module)
    module.__class__ = _watched(kind)


def unwatch(module: nn.Module) -> None:
    """Undo `watch`."""
    module.__class__ = type(module).__mro__[1]
    del module.products


@contextmanager
def shielded(module: nn.Module) -> Iterator[None]:
    """Hide, inside the `with`, what the modules inside a stock module multiply from its watch."""
    parts = list(_called(module))
    for part in parts:
        kind: Any = type(part)
        part.__class__ = _hidden(kind)
    try:
        yield
    finally:
        for part in parts:
            part.__class__ = type(part).__mro__[1]


def _called(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules a module's own code calls."""
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _called(child)
        else:
            yield child


@cache
def _watched(kind: Any) -> Any:
    """Return a subclass of a module's class, of the same name, that watches its forward."""

    def forward(self: nn.Module, *arguments: Any, **options: Any) -> Any:
        with _Watching(self) as watch:
            _RUNNING.append(watch)
            try:
                return kind.forward(self, *arguments, **options)
            finally:
                _RUNNING.pop()

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


@cache
def _hidden(kind: Any) -> Any:
    """Return a subclass of a module's class, of the same name, whose functions no watch sees."""

    def forward(self: nn.Module, *arguments: Any, **options: Any) -> Any:
        with aside():
            return kind.forward(self, *arguments, **options)

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
