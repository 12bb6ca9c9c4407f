"""What one forward pass of a stock model multiplies: read off a dry run on tensors without memory.

Every call of a function that multiplies matrices is seen (`torch.overrides.TorchFunctionMode`), with the module whose
forward made it, wherever in timm's code it stands: layers, `@` in attention, fused attention, functional layers on
another module's weight. The same run tells what feeds a layer: the image, a LayerNorm that feeds nothing else, a GELU.
"""

from __future__ import annotations

import copy
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from methods.errors import UsageError
from methods.models.functions import Trace
from methods.models.watch import Watch


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
    watch = Watch(bare, image)
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
