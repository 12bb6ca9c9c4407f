"""What one forward pass of a stock model multiplies: read off a dry run on tensors without memory.

Every call of a function that multiplies matrices is seen (`torch.overrides.TorchFunctionMode`), with the module whose
forward made it, wherever in timm's code it stands: layers, `@` in attention, fused attention, functional layers on
another module's weight. The same run tells what feeds a layer: the image, a LayerNorm that feeds nothing else, a GELU.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from methods.errors import UsageError
from methods.models import functions
from methods.models.functions import Function


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
        return functions.OPERANDS.get(self.kind, ("left", "right"))

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
    modules that take more than one argument; shapes: what a module was given (first argument) and gave, None for what
    is no single tensor.
    """

    products: list[Product] = field(default_factory=list)
    norms: dict[str, str] = field(default_factory=dict)
    activated: set[str] = field(default_factory=set)
    images: set[str] = field(default_factory=set)
    calls: Counter[str] = field(default_factory=Counter)
    several: set[str] = field(default_factory=set)
    shapes: dict[str, tuple[tuple[int, ...] | None, tuple[int, ...] | None]] = field(default_factory=dict)


def image_shape(model: nn.Module) -> tuple[int, int, int]:
    """Return channels, height and width of the images a stock model takes."""
    described = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    size = described.get("input_size")
    fixed = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if fixed is not None:
        channels = next(m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))
        return (size[0] if size and tuple(size[1:]) == tuple(fixed) else channels, *fixed)
    if size is None:
        raise UsageError(f"{type(model).__name__} does not say what size of images it takes.")
    return tuple(size)


def skeleton(model: nn.Module) -> Any:
    """Return a copy of a model on meta tensors, which hold no memory; nothing of its weights or hooks is copied."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in (*module._parameters.values(), *module._buffers.values(), *vars(module).values()):
            if isinstance(value, nn.Parameter):
                memo[id(value)] = nn.Parameter(value.detach().to("meta"), requires_grad=False)
            elif isinstance(value, Tensor):
                memo[id(value)] = value.detach().to("meta")
    bare = copy.deepcopy(model, memo)
    for module in bare.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return bare


_SEEN: WeakKeyDictionary[nn.Module, dict[tuple[int, int, int], Trace]] = WeakKeyDictionary()


def trace(model: nn.Module, shape: tuple[int, int, int] | None = None) -> Trace:
    """Run a stock model dry on one image; raises UsageError for products by functions that are not understood.

    shape: of the image, the model's own if it is None. A model is run once; its structure must not change.
    """
    shape = shape or image_shape(model)
    known: dict[tuple[int, int, int], Trace] = _SEEN.setdefault(model, {})
    if shape not in known:
        known[shape] = _dry_run(model, shape)
    return known[shape]


def _dry_run(model: nn.Module, shape: tuple[int, int, int]) -> Trace:
    bare = skeleton(model).eval()
    separate(bare)
    image = torch.empty((1, *shape), device="meta", dtype=next(bare.parameters()).dtype)
    watch = _Watch(bare, image)
    with torch.no_grad(), watch, watch.entered():
        bare(image)
    return watch.finished()


def separate(model: nn.Module) -> None:
    """Give every place at which a module stands a copy of its own, in place, so that no two places share one."""
    met: set[int] = set()
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if id(module) in met and any(True for _ in module.parameters()):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, copy.deepcopy(module))
        met.add(id(module))


@dataclass
class _Source:
    """Where a tensor comes from: "image", "gelu", "softmax" or the name of a LayerNorm; readers: the layers that
    take it, None for whatever else looks at it."""

    name: str
    readers: list[str | None] = field(default_factory=list)


class _Watch(TorchFunctionMode):
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
        if sum(value is not None for value in (*arguments, *options.values())) > 1:
            self.trace.several.add(name)

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
            plain = tensor is given[0] and (tensor.stride(-1) == 1 or source.name == "image")
            source.readers.append(reader if plain else None)

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
