"""Turn every attention head's query and key alike, and its value against the projection: the function stays.

q R and k R have the products of q and k; v R leads through R^T W_proj where v does through W_proj. Rotations spread
what stands out over a head's channels, so that one scale serves them better (GLF-Q, 2026, turns heads too; random
rotations are inferred). They are folded into the q/k/v projection and the one after attention.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from methods.models.architecture import attention_modules

_SEED = 0
"""Of the rotations: they depend on the model's shape alone, not on a run's seed."""


def heads_rotated(model: nn.Module) -> nn.Module:
    """Return a copy of `model` that computes the same, its heads turned.

    Queries and keys that pass a norm stay as they are, and so do values with a norm or a gate behind attention.
    """
    turned = copy.deepcopy(model).requires_grad_(False)
    generator = torch.Generator().manual_seed(_SEED)
    for attention in attention_modules(turned):
        width = attention.qkv.out_features // 3 // attention.num_heads
        match, mix = (_rotations(attention.num_heads, width, generator).to(attention.qkv.weight.device) for _ in "qv")
        _turn(attention, match, mix)
    return turned


def _rotations(heads: int, width: int, generator: torch.Generator) -> Tensor:
    """Return the block-diagonal matrix (float64) of one random orthogonal matrix [width, width] per head."""
    blocks = [torch.empty((width, width), dtype=torch.float64) for _ in range(heads)]
    for block in blocks:
        nn.init.orthogonal_(block, generator=generator)
    whole: Tensor = torch.block_diag(*blocks)
    return whole


@torch.no_grad()
def _turn(attention: Any, match: Tensor, mix: Tensor) -> None:
    """q' = R q, k' = R k, v' = S v, W_proj' = W_proj S^T, R and S per head."""
    keep = torch.eye(len(match), dtype=match.dtype, device=match.device)
    normed = not isinstance(getattr(attention, "q_norm", None), nn.Identity | None)
    gated = getattr(attention, "gate", None) is not None
    mixed = gated or not isinstance(getattr(attention, "norm", None), nn.Identity | None)
    match, mix = keep if normed else match, keep if mixed else mix
    turn = torch.block_diag(match, match, mix)
    qkv, proj = attention.qkv, attention.proj
    qkv.weight.copy_(turn @ qkv.weight.double())
    if qkv.bias is not None:
        qkv.bias.copy_(turn @ qkv.bias.double())
    proj.weight.copy_(proj.weight.double() @ mix.T)
