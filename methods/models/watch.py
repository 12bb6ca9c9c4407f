"""Watches one pass of a skeleton: which matrix products its functions compute, and what feeds each layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from methods.errors import UsageError
from methods.models import functions
from methods.models.functions import Function, Product, Trace


@dataclass
class _Source:
    """Where a tensor comes from: "image", "gelu", "softmax" or the name of a LayerNorm; readers: the layers that
    take it, None for whatever else looks at it."""

    name: str
    readers: list[str | None] = field(default_factory=list)


class Watch(TorchFunctionMode):
    """Sees all functions of one pass of a skeleton."""

    def __init__(self, model: nn.Module, image: Tensor) -> None:
        super().__init__()
        self.trace = Trace()
        self.model = model
        self.names = {id(module): name for name, module in model.named_modules()}
        self.weights = {id(m.weight): name for name, m in model.named_modules() if _is_layer(m)}
        self.stack: list[tuple[nn.Module, list[int]]] = []
        self.sources: dict[int, _Source] = {_storage(image): _Source("image")}
        self.varying = {_storage(image)}
        self.kept: list[Tensor] = [image]  # storages are known by their address, which must not be used again

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Follow which module's forward is running."""
        hooks = []
        for module in self.model.modules():
            hooks.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            hooks.append(module.register_forward_hook(self._leave))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        self.stack.append((module, [0]))
        name = self.names[id(module)]
        self.trace.calls[name] += 1
        if not arguments or any(self._differs(value) for value in (*arguments[1:], *options.values())):
            self.trace.several.add(name)

    def _differs(self, value: object) -> bool:
        """Whether an argument may be another for other images or for more than the one there is here."""
        match value:
            case None | bool():
                return False
            case int():
                return value == 1
            case Tensor():
                return _storage(value) in self.varying or value.shape[:1] == (1,)
            case tuple() | list():
                return any(self._differs(part) for part in value)
        return True

    def _leave(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        self.stack.pop()
        name = self.names[id(module)]
        first = arguments[0] if arguments else None
        self.trace.shapes[name] = (_shape(first), _shape(output))
        if isinstance(module, nn.LayerNorm) and isinstance(output, Tensor):
            self.sources[_storage(output)] = _Source(name)

    def __torch_function__(
        self, function: Function, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        options = options or {}
        result = function(*arguments, **options)
        self._follow(function, arguments, options, result)
        return result

    def _follow(self, function: Function, arguments: tuple[Any, ...], options: dict[str, Any], result: Any) -> None:
        """Note a product, and hand on where tensors come from."""
        given = list(_tensors((arguments, options)))
        made = list(_tensors(result))
        self.kept += made
        if any(_storage(tensor) in self.varying for tensor in given):
            self.varying |= {_storage(tensor) for tensor in made}
        if function in functions.UNKNOWN:
            raise UsageError(f"{self.owner or 'The model'} computes {function.__name__}, which is not understood.")
        reader = None
        if function in functions.PRODUCTS:
            reader = self._product(function, arguments, options, result)
        elif function in functions.SOFTMAX:
            self.sources[_storage(result)] = _Source("softmax")
        elif function is functional.gelu:
            self.sources[_storage(result)] = _Source("gelu")
        self._read(function, given, made, reader)

    @property
    def owner(self) -> str:
        """The name of the module whose forward is running."""
        return self.names[id(self.stack[-1][0])] if self.stack else ""

    def _product(self, function: Function, arguments: Any, options: Any, result: Tensor) -> str | None:
        """Note a product; returns the layer whose weight it takes."""
        known = functions.PRODUCTS[function]
        tensors = functions.operands(known, arguments, options)
        layer = self.weights.get(id(tensors[1])) if known.kind in (functions.LINEAR, functions.CONVOLUTION) else None
        counted = self.stack[-1][1]
        functional_ = layer is not None and layer != self.owner
        index = counted[0]
        counted[0] += layer is None
        equation = arguments[0] if known.kind == functions.EINSUM else ""
        product = Product(
            self.owner, index, known.kind, layer, functional_, functions.macs(known.kind, tensors, result, equation)
        )
        product.varies = any(_storage(tensor) in self.varying for tensor in tensors)
        for side, tensor in zip(("left", "right"), tensors, strict=False):
            source = self.sources.get(_storage(tensor))
            if source is not None and source.name == "softmax" and known.kind != functions.ATTENTION:
                product.softmax, product.maps = side, tuple(tensor.shape)
        if known.kind == functions.ATTENTION:
            product.softmax, product.maps = "left", (*tensors[0].shape[:-1], tensors[1].shape[-2])
            product.scale = options.get("scale") or tensors[0].shape[-1] ** -0.5
        self._add(product)
        return layer

    def _add(self, product: Product) -> None:
        for known in self.trace.products:
            if (known.owner, known.index, known.layer) == (product.owner, product.index, product.layer):
                known.calls += 1
                known.macs = [a + b for a, b in zip(known.macs, product.macs, strict=True)]
                return
        self.trace.products.append(product)

    def _read(self, function: Function, given: list[Tensor], made: list[Tensor], reader: str | None) -> None:
        """Hand a tensor's source on to what only moves its values, or note who reads it."""
        for tensor in given:
            source = self.sources.get(_storage(tensor))
            if source is None or not made:
                continue
            if all(_storage(result) == _storage(tensor) for result in made) and not _writes(function):
                continue
            if _moves(function, tensor, made[0], source.name) and len(given) == 1:
                self.sources.setdefault(_storage(made[0]), source)
                continue
            if source.name == "softmax" and function in _MIXING and all(self._weighs(other) for other in given):
                self.sources[_storage(made[0])] = source
                continue
            plain = tensor is given[0] and (tensor.stride(-1) == 1 or source.name == "image")
            source.readers.append(reader if plain else None)

    def _weighs(self, tensor: Tensor) -> bool:
        """Whether a tensor is a softmax output, or the same for every image, such as a gate."""
        source = self.sources.get(_storage(tensor))
        return _storage(tensor) not in self.varying or (source is not None and source.name == "softmax")

    def finished(self) -> Trace:
        """Return what was seen, with what feeds each layer."""
        modules = dict(self.model.named_modules())
        for source in self.sources.values():
            for layer in source.readers:
                if layer is None:
                    continue
                if source.name == "gelu":
                    self.trace.activated.add(layer)
                elif source.name == "image":
                    self.trace.images.add(layer)
                elif source.name in modules and source.readers == [layer] and self._pair(modules, source.name, layer):
                    self.trace.norms[layer] = source.name
        return self.trace

    def _pair(self, modules: dict[str, nn.Module], norm: str, layer: str) -> bool:
        """Whether a shift and a scale can move from a norm into the linear layer behind it, no classifier."""
        first, second = modules[norm], modules[layer]
        given = self.trace.shapes.get(layer, (None, None))[0]
        return (
            isinstance(first, nn.LayerNorm)
            and first.bias is not None
            and isinstance(second, nn.Linear)
            and tuple(first.normalized_shape) == (second.in_features,)
            and (given is None or len(given) > _VECTORS)
        )


_VECTORS = 2  # dimensions of what a classifier takes, a vector per image
_MOVING: frozenset[Function] = frozenset(
    {
        Tensor.reshape,
        Tensor.contiguous,
        Tensor.clone,
        Tensor.flatten,
        Tensor.roll,
        torch.roll,
        torch.reshape,
        torch.flatten,
        torch.clone,
        functional.dropout,
    }
)
"""Functions that may copy a tensor, values as they are."""
_MIXING: frozenset[Function] = frozenset(
    {torch.add, Tensor.add, Tensor.__add__, torch.mul, Tensor.mul, Tensor.__mul__}
)
"""What makes a weighted sum of softmax outputs: one map of attention again, as ConViT's."""


def _moves(function: Function, tensor: Tensor, result: Tensor, source: str) -> bool:
    """Whether a function hands values on as they are, channels last where they are; padding an image counts."""
    if function is functional.pad:
        return source == "image" or tensor.shape == result.shape
    same = tensor.dim() > 0 and result.dim() > 0 and tensor.shape[-1] == result.shape[-1]
    return function in _MOVING and same and tensor.stride(-1) == 1


def _writes(function: Function) -> bool:
    name = getattr(function, "__name__", "")
    return name.endswith("_") and not name.endswith("__")


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv2d)


def _storage(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of nested arguments."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
