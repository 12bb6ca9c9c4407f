"""Inter-head attention similarity of MimiQ: how alike the maps are that the heads of a layer make of one query.

Choi et al., "MimiQ: Low-Bit Data-Free Quantization of Vision Transformers with Encouraging Inter-Head Attention
Similarity", AAAI 2025. The map of a query patch and a head is q K^T before softmax over the key patches (prefix
tokens left out on both sides), scaled to [0, 1] by its own minimum and maximum. Two maps x, y of one query are
compared by SSIM with the statistics of the whole map,

    SSIM = (2 mx my + C1)(2 cxy + C2) / ((mx^2 + my^2 + C1)(vx + vy + C2)),   C1 = 0.01^2, C2 = 0.03^2

and the loss is the mean of 1 - SSIM^2 over pairs of heads, queries and windows: 0 where all heads agree, so that
minimising it makes them alike. (The square would also be content with maps that are inverse to each other.)

All pairs at once: keys are centred, which centres every map; then one Gram matrix of the heads per query holds
every covariance, and what the scaling does to it follows from minimum and maximum. The gradient is formed with
the value, so that only tensors of the size of query and key are kept for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_C1, _C2 = 0.01**2, 0.03**2
_NARROWEST = 1e-6  # least spread of a map that is scaled by it


def head_dissimilarity(query: Tensor, key: Tensor, prefix: int) -> Tensor:
    """Return the mean of 1 - SSIM^2 of every image, [n], from query and key [n, windows, heads, tokens, d].

    prefix: tokens before the patches. Needs two heads or more.
    """
    result: Tensor = _Dissimilarity.apply(query[..., prefix:, :].float(), key[..., prefix:, :].float())
    return result


class _Dissimilarity(torch.autograd.Function):
    """The loss of every image and, in the same pass, its gradient with respect to query and key."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor) -> Tensor:
        with torch.autocast(query.device.type, enabled=False):
            losses, *gradients = _with_gradients(query, key)
        ctx.save_for_backward(*gradients)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, Tensor]:
        by_query, by_key = ctx.saved_tensors
        outer = outer[:, None, None, None, None]
        return outer * by_query, outer * by_key


def _with_gradients(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return losses [n] and their gradients in the shapes of query and key."""
    key = key - key.mean(dim=-2, keepdim=True)
    maps = query @ key.transpose(-2, -1)
    (low, lowest), (high, highest) = maps.min(dim=-1), maps.max(dim=-1)
    rows = maps.transpose(-3, -2)
    gram = rows @ rows.transpose(-2, -1) / rows.shape[-1]
    with torch.enable_grad():
        statistics = [t.requires_grad_() for t in (low, high, gram)]
        losses = _losses(*statistics)
        by_low, by_high, by_gram = torch.autograd.grad(losses.sum(), statistics)
    by_maps = ((by_gram + by_gram.transpose(-2, -1)) @ rows / rows.shape[-1]).transpose(-3, -2)
    by_maps.scatter_add_(-1, lowest[..., None], by_low[..., None])
    by_maps.scatter_add_(-1, highest[..., None], by_high[..., None])
    by_key = by_maps.transpose(-2, -1) @ query
    return losses.detach(), by_maps @ key, by_key - by_key.mean(dim=-2, keepdim=True)


def _losses(low: Tensor, high: Tensor, gram: Tensor) -> Tensor:
    """Return the losses [n] from minima, maxima [n, windows, heads, q] and covariances [n, windows, q, heads, heads]
    of centred maps."""
    width = (high - low).clamp(min=_NARROWEST).transpose(-2, -1)
    mean = -low.transpose(-2, -1) / width
    covariance = gram / (width[..., None] * width[..., None, :])
    return (1 - _ssim(mean, covariance).square()).mean(dim=(1, 2, 3))


def _ssim(mean: Tensor, covariance: Tensor) -> Tensor:
    """Return SSIM of every pair of heads [..., pairs]; mean: [..., heads], covariance: [..., heads, heads]."""
    heads = mean.shape[-1]
    first, second = torch.triu_indices(heads, heads, 1, device=mean.device)
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    mx, my, vx, vy = mean[..., first], mean[..., second], variance[..., first], variance[..., second]
    luminance = (2 * mx * my + _C1) / (mx.square() + my.square() + _C1)
    return luminance * (2 * covariance[..., first, second] + _C2) / (vx + vy + _C2)
