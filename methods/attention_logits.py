"""Read the two operands of Q K^T while a model runs, of a floating-point model or a quantized one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

from timm.layers import Attention
from torch import Tensor, nn

from methods.architecture import AttentionSite

Operands: TypeAlias = tuple[Tensor, Tensor]
"""Query and key of a site, each [n, windows, heads, tokens, d], prefix tokens included."""


@contextmanager
def attention_operands(sites: Sequence[AttentionSite]) -> Iterator[list[Operands]]:
    """Collect, during one forward pass inside the `with`, the query and key of every site, in order of computation.

    They are what the product is made of: behind the norms of a site that has them, and on their grids in a
    quantized model. The scale of attention, Swin's bias and Swin's mask are not in them.
    """
    found: list[Operands] = []
    hooks = [site.module.get_submodule("qkv").register_forward_hook(partial(_read, site, found)) for site in sites]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _read(site: AttentionSite, found: list[Operands], _module: nn.Module, _arguments: Any, output: Tensor) -> None:
    """Take query and key from the output of the q/k/v projection [maps, tokens, 3*heads*d]."""
    projected = output.unflatten(-1, (3, site.heads, -1))
    query, key = projected[:, :, 0].transpose(1, 2), projected[:, :, 1].transpose(1, 2)
    if isinstance(site.module, Attention):
        query, key = site.module.q_norm(query), site.module.k_norm(key)
    found.append((query.unflatten(0, (-1, site.windows)), key.unflatten(0, (-1, site.windows))))
