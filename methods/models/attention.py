"""Read attention distributions and outputs while a model runs.

In ViT and Swin a hook on the q/k/v projection sees all that attention is made of, and fused attention stays on. For a
model with a class token only the class query's row is computed (one query against all keys); otherwise the mean over
all queries needs the full map of the site. The outputs A.V are what the projection after attention is given. In all
other families the products themselves are watched (`methods.models.calls`), in a floating-point model as in a
quantized one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeAlias

from timm.layers import Attention
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from methods.models.calls import CallSite, shielded, unwatch, watch
from methods.models.sites import AttentionSite


@contextmanager
def attention_maps(sites: Sequence[AttentionSite], count: int) -> Iterator[list[Tensor]]:
    """Collect, during one forward pass inside the `with`, the attention over patches at each site.

    count: only the first `count` images of the batch are read. The list holds, in order of computation, one
    tensor [count, windows, heads, rows*columns] per site: the class token's attention to the patches
    (prefix tokens dropped, so a row sums to one minus their share), or the mean over all queries where
    there is no class token (SPDFQ, section on APA; averaging pooled ViTs likewise is inferred).
    """
    found: list[Tensor] = []

    def keep(site: AttentionSite, _part: nn.Module, arguments: tuple[Tensor], _output: Tensor) -> None:
        found.append(_rows(site, arguments[0], count))

    with ExitStack() as stack:
        for site in sites:
            if site.mixed is not None:
                operand = "softmax" if site.scores == site.mixed else site.side
                softmax = stack.enter_context(watched_part(site, site.mixed, operand))
                _hook(stack, softmax.register_forward_hook(partial(keep, site)))
                continue
            masks: dict[str, Tensor | None] = {}
            _hook(stack, site.module.register_forward_pre_hook(partial(_keep_mask, masks), with_kwargs=True))
            read = partial(_read, site, count, masks, found)
            _hook(stack, site.module.get_submodule("qkv").register_forward_hook(read))
        yield found


@contextmanager
def attention_outputs(sites: Sequence[AttentionSite]) -> Iterator[list[Tensor]]:
    """Collect, during one forward pass inside the `with`, the outputs A.V of every head at each site.

    The list holds, in order of computation, one tensor [n, windows, tokens, heads, d] per site, prefix tokens
    included, before any normalization or gate that a site applies ahead of its projection.
    """
    found: list[Tensor] = []

    def read(site: AttentionSite, _module: nn.Module, arguments: tuple[Tensor]) -> None:
        found.append(arguments[0].unflatten(0, (-1, site.windows)).unflatten(-1, (site.heads, -1)))

    def keep(site: AttentionSite, _call: nn.Module, _arguments: Any, output: Tensor) -> None:
        tokens = output if site.side == "left" else output.transpose(-2, -1)
        found.append(by_window(site, tokens).transpose(2, 3))

    with ExitStack() as stack:
        for site in sites:
            if site.mixed is not None:
                call = stack.enter_context(watched_call(site, site.mixed))
                _hook(stack, call.register_forward_hook(partial(keep, site)))
            else:
                after = "norm" if isinstance(site.module, Attention) else "proj"
                _hook(stack, site.module.get_submodule(after).register_forward_pre_hook(partial(read, site)))
        yield found


def _hook(stack: ExitStack, handle: RemovableHandle) -> None:
    stack.callback(handle.remove)


@contextmanager
def watched_call(site: AttentionSite, index: int) -> Iterator[CallSite]:
    """Give, inside the `with`, the call site of a product of a site's module; one that is not watched yet is."""
    module: Any = site.module
    if not hasattr(module, "products"):
        watch(module, [])
        try:
            with shielded(module), watched_call(site, index) as call:
                yield call
        finally:
            unwatch(module)
        return
    there: list[CallSite] = [known for known in module.products if known.index == index]
    added = not there
    call = CallSite(index, None, {}) if added else there[0]
    if added:
        module.products.append(call)
    try:
        yield call
    finally:
        if added:
            module.products = nn.ModuleList(other for other in module.products if other is not call)


@contextmanager
def watched_part(site: AttentionSite, index: int, name: str) -> Iterator[nn.Module]:
    """Give, inside the `with`, the module that an operand of a product passes, by the operand's name."""
    with watched_call(site, index) as call:
        added = name not in call.parts
        if added:
            call.parts[name] = nn.Identity()
        try:
            yield call.parts[name]
        finally:
            if added:
                del call.parts[name]


def by_window(site: AttentionSite, values: Tensor) -> Tensor:
    """Return [n, windows, heads, rows, columns] of what a watched site computes, however its code orders them."""
    values = values.transpose(1, 2) if site.heads_first else values
    return values.reshape(-1, site.windows, site.heads, *values.shape[-2:])


def _rows(site: AttentionSite, weights: Tensor, count: int) -> Tensor:
    """Return the rows that stand for the heads [count, windows, heads, cells] of a softmax output."""
    weights = by_window(site, weights if site.side == "left" else weights.transpose(-2, -1))[:count]
    first = site.prefix if weights.shape[-2] == weights.shape[-1] else 0
    rows = weights[..., :1, :] if site.class_token else weights[..., first:, :]
    return rows.mean(dim=-2)[..., site.prefix :]


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
    with ExitStack() as stack:
        for site in sites:
            if site.scores is not None:
                stack.enter_context(_watched(site, site.scores, found))
            else:
                handle = site.module.get_submodule("qkv").register_forward_hook(partial(_read_operands, site, found))
                stack.callback(handle.remove)
        yield found


@contextmanager
def _watched(site: AttentionSite, index: int, found: list[Operands]) -> Iterator[None]:
    """Collect the operands of a watched product Q K^T."""
    fused, query = site.scores == site.mixed, list[Tensor]()

    def first(_part: nn.Module, _arguments: Any, output: Tensor) -> None:
        query.append(by_window(site, output))

    def second(_part: nn.Module, _arguments: Any, output: Tensor) -> None:
        found.append((query.pop(), by_window(site, output if fused else output.transpose(-2, -1))))

    with ExitStack() as stack:
        for name, keep in zip(("query", "key") if fused else ("left", "right"), (first, second), strict=True):
            part = stack.enter_context(watched_part(site, index, name))
            stack.callback(part.register_forward_hook(keep).remove)
        yield


def _read_operands(
    site: AttentionSite, found: list[Operands], _module: nn.Module, _arguments: Any, output: Tensor
) -> None:
    """Take query and key from the output of the q/k/v projection [maps, tokens, 3*heads*d]."""
    projected = output.unflatten(-1, (3, site.heads, -1))
    query, key = projected[:, :, 0].transpose(1, 2), projected[:, :, 1].transpose(1, 2)
    if isinstance(site.module, Attention):
        query, key = site.module.q_norm(query), site.module.k_norm(key)
    found.append((query.unflatten(0, (-1, site.windows)), key.unflatten(0, (-1, site.windows))))
