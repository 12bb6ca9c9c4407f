"""Read attention distributions and outputs while a model runs, without switching off fused attention.

A hook on the q/k/v projection sees all that attention is made of. For a model with a class token only the
class query's row is computed (one query against all keys); otherwise the mean over all queries needs the
full map of the site. The outputs A.V are what the projection after attention is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

from timm.layers import Attention
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn

from methods.models.architecture import AttentionSite


@contextmanager
def attention_maps(sites: Sequence[AttentionSite], count: int) -> Iterator[list[Tensor]]:
    """Collect, during one forward pass inside the `with`, the attention over patches at each site.

    count: only the first `count` images of the batch are read. The list holds, in order of computation, one
    tensor [count, windows, heads, rows*columns] per site: the class token's attention to the patches
    (prefix tokens dropped, so a row sums to one minus their share), or the mean over all queries where
    there is no class token (SPDFQ, section on APA; averaging pooled ViTs likewise is inferred).
    """
    found: list[Tensor] = []
    hooks = []
    for site in sites:
        masks: dict[str, Tensor | None] = {}
        hooks.append(site.module.register_forward_pre_hook(partial(_keep_mask, masks), with_kwargs=True))
        read = partial(_read, site, count, masks, found)
        hooks.append(site.module.get_submodule("qkv").register_forward_hook(read))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def attention_outputs(sites: Sequence[AttentionSite]) -> Iterator[list[Tensor]]:
    """Collect, during one forward pass inside the `with`, the outputs A.V of every head at each site.

    The list holds, in order of computation, one tensor [n, windows, tokens, heads, d] per site, prefix tokens
    included, before any normalization or gate that a site applies ahead of its projection.
    """
    found: list[Tensor] = []

    def read(site: AttentionSite, _module: nn.Module, arguments: tuple[Tensor]) -> None:
        found.append(arguments[0].unflatten(0, (-1, site.windows)).unflatten(-1, (site.heads, -1)))

    hooks = []
    for site in sites:
        after = "norm" if isinstance(site.module, Attention) else "proj"
        hooks.append(site.module.get_submodule(after).register_forward_pre_hook(partial(read, site)))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _keep_mask(masks: dict[str, Tensor | None], _module: nn.Module, _arguments: Any, options: dict[str, Any]) -> None:
    masks["mask"] = options.get("mask")


def _read(
    site: AttentionSite,
    count: int,
    masks: dict[str, Tensor | None],
    found: list[Tensor],
    _module: nn.Module,
    _arguments: Any,
    output: Tensor,
) -> None:
    """Compute one site's distribution from the output of its q/k/v projection [maps, tokens, 3*heads*d]."""
    projected = output[: count * site.windows].unflatten(-1, (3, site.heads, -1))
    query, key = projected[:, :, 0].transpose(1, 2), projected[:, :, 1].transpose(1, 2)
    if isinstance(site.module, WindowAttention):
        rows = _window_rows(site.module, query, key, masks["mask"])
    else:
        rows = _global_rows(site, query, key)
    found.append(rows.unflatten(0, (count, site.windows)))


def _global_rows(site: AttentionSite, query: Tensor, key: Tensor) -> Tensor:
    """Return [n, heads, patches] from query and key [n, heads, tokens, d] of a timm `Attention`."""
    attention = site.module
    assert isinstance(attention, Attention)
    first = 0 if site.class_token else site.prefix
    last = 1 if site.class_token else query.shape[2]
    query, key = attention.q_norm(query[:, :, first:last]), attention.k_norm(key)
    weights = ((query * attention.scale) @ key.transpose(-2, -1)).softmax(dim=-1)
    rows: Tensor = weights.mean(dim=2)[..., site.prefix :]
    return rows


def _window_rows(attention: WindowAttention, query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean over queries [n*windows, heads, cells] of Swin's attention, with its bias and mask."""
    scores = (query * attention.scale) @ key.transpose(-2, -1) + attention._get_rel_pos_bias()
    if mask is not None:
        scores = (scores.unflatten(0, (-1, len(mask))) + mask[None, :, None]).flatten(0, 1)
    rows: Tensor = scores.softmax(dim=-1).mean(dim=2)
    return rows


Operands: TypeAlias = tuple[Tensor, Tensor]
"""Query and key of a site, each [n, windows, heads, tokens, d], prefix tokens included."""


@contextmanager
def attention_operands(sites: Sequence[AttentionSite]) -> Iterator[list[Operands]]:
    """Collect, during one forward pass inside the `with`, the query and key of every site, in order of computation.

    They are what the product is made of: behind the norms of a site that has them, and on their grids in a
    quantized model. The scale of attention, Swin's bias and Swin's mask are not in them.
    """
    found: list[Operands] = []
    hooks = [
        site.module.get_submodule("qkv").register_forward_hook(partial(_read_operands, site, found)) for site in sites
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _read_operands(
    site: AttentionSite, found: list[Operands], _module: nn.Module, _arguments: Any, output: Tensor
) -> None:
    """Take query and key from the output of the q/k/v projection [maps, tokens, 3*heads*d]."""
    projected = output.unflatten(-1, (3, site.heads, -1))
    query, key = projected[:, :, 0].transpose(1, 2), projected[:, :, 1].transpose(1, 2)
    if isinstance(site.module, Attention):
        query, key = site.module.q_norm(query), site.module.k_norm(key)
    found.append((query.unflatten(0, (-1, site.windows)), key.unflatten(0, (-1, site.windows))))
