"""In-place chains over tensors larger than a processor's cache, part by part.

A fake quantizer is a handful of cheap operations; on a CPU, each of them over a whole activation waits for
memory. Part by part all but the first find their values in the cache. Values do not depend on the parts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_BLOCK = 1 << 16
Chain = Callable[[Tensor], object]


def changed(x: Tensor, chain: Chain, cut: bool = True) -> Tensor:
    """Return a copy of x [n, ...] changed in place by `chain`; `cut` says that it may see part of x at a time."""
    result = torch.empty_like(x)
    for source, part in zip(_parts(x, cut), _parts(result, cut), strict=True):
        chain(part.copy_(source))
    return result


def change_(x: Tensor, chain: Chain, cut: bool = True) -> None:
    """Change x [n, ...] in place by `chain`; `cut` says that it may see part of x at a time."""
    for part in _parts(x, cut):
        chain(part)


def _parts(x: Tensor, cut: bool) -> tuple[Tensor, ...]:
    """Cut x along its first dimension into parts of about `_BLOCK` values; on other devices it is one part."""
    if not (cut and x.is_cpu and x.dim() and x.numel() > _BLOCK):
        return (x,)
    parts: tuple[Tensor, ...] = x.split(max(1, _BLOCK * len(x) // x.numel()))
    return parts
