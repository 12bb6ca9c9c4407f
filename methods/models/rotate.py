"""Turn residual streams and attention heads so that no channel stands out; stock layers, and the function is the same.

Rotations spread outliers over all channels before they are quantized (QuaRot, arXiv 2404.00456, for language models
with RMSNorm). A LayerNorm takes off the mean over channels first; it commutes with those rotations Q that leave the
vector of ones where it is (Q 1 = 1): mean(Q x) = mean(x), and |Q (x - mean x)| = |x - mean x|. So Q goes into the
layers that write to a stream and Q^T, with the norm's own weight and bias, into those that read it. That is this
project's way; on DeiT-T at W4A4 it lowers the KL divergence from floating point by a fifth
(`results/ablation_best`).

Heads turn by themselves: q R and k R have the products of q and k; v S leads through S^T W_proj where v does through
W_proj. That spreads what stands out over a head's channels, so that one scale serves them better (GLF-Q, 2026, turns
heads too; random rotations are inferred). Both are folded into the projections before and after attention.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from methods.models.architecture import attention_modules, residual_streams
from methods.models.residual import Reader, ResidualStream, Writer

_SEED = 0
"""Of all rotations: they depend on the model's shape alone, not on a run's seed."""


def rotated(model: nn.Module) -> nn.Module:
    """Return a copy of `model` that computes the same, its residual streams turned.

    Streams that cannot be turned stay as they are (`residual_streams`). Raises UsageError for a family that is not
    supported.
    """
    turned = copy.deepcopy(model).requires_grad_(False)
    for stream in residual_streams(turned):
        _turn(turned, stream, mean_keeping_rotation(stream.width))
    return turned


def mean_keeping_rotation(width: int) -> Tensor:
    """Return a random orthogonal matrix [width, width] (float64) that maps the vector of ones to itself.

    H diag(1, R) H: R is drawn uniformly from the orthogonal matrices, H the reflection that exchanges the first unit
    vector and the normalized vector of ones.
    """
    inner = torch.empty((width - 1, width - 1), dtype=torch.float64)
    nn.init.orthogonal_(inner, generator=torch.Generator().manual_seed(_SEED))
    mirror = torch.full((width, 1), -(width**-0.5), dtype=torch.float64)
    mirror[0] += 1
    reflection = torch.eye(width, dtype=torch.float64)
    reflection -= 2 * mirror @ mirror.T / mirror.square().sum()
    outer: Tensor = torch.block_diag(torch.ones((1, 1), dtype=torch.float64), inner)
    return reflection @ outer @ reflection


@torch.no_grad()
def _turn(model: nn.Module, stream: ResidualStream, rotation: Tensor) -> None:
    rotation = rotation.to(next(model.parameters()).device)
    for reader in stream.readers:
        _turn_reader(model, reader, rotation)
    for writer in stream.writers:
        _turn_writer(model, writer, rotation)
    for name in stream.tokens:
        token = model.get_parameter(name)
        token.copy_(token.double() @ rotation.T)


def _turn_reader(model: nn.Module, reader: Reader, rotation: Tensor) -> None:
    """W' = W diag(gamma) Q^T, b' = b + W beta; the norm keeps gamma = 1, beta = 0."""
    norm: Any = model.get_submodule(reader.norm)
    back = torch.block_diag(*[rotation.T] * reader.copies)
    for name in reader.layers:
        layer: Any = model.get_submodule(name)
        weight = layer.weight.double()
        if norm.bias is not None:
            shift = weight @ norm.bias.double()
            bias = shift if layer.bias is None else shift + layer.bias.double()
            layer.bias = nn.Parameter(bias.to(layer.weight.dtype), requires_grad=False)
        layer.weight.copy_((weight if norm.weight is None else weight * norm.weight.double()) @ back)
    if norm.weight is not None:
        norm.weight.fill_(1)
    if norm.bias is not None:
        norm.bias.zero_()


def _turn_writer(model: nn.Module, writer: Writer, rotation: Tensor) -> None:
    """W' = Q diag(s) W, b' = Q (s b) with the LayerScale s, which keeps 1."""
    layer: Any = model.get_submodule(writer.layer)
    scale = torch.ones(len(rotation), dtype=torch.float64, device=rotation.device)
    if writer.scale is not None:
        gamma = model.get_parameter(f"{writer.scale}.gamma")
        scale = gamma.to(torch.float64, copy=True)
        gamma.fill_(1)
    turn = rotation * scale
    layer.weight.copy_((turn @ layer.weight.double().flatten(1)).reshape(layer.weight.shape))
    if layer.bias is not None:
        layer.bias.copy_(turn @ layer.bias.double())


def heads_rotated(model: nn.Module) -> nn.Module:
    """Return a copy of `model` that computes the same, its heads turned.

    Queries and keys that pass a norm stay as they are, and so do values with a norm or a gate behind attention.
    """
    turned = copy.deepcopy(model).requires_grad_(False)
    generator = torch.Generator().manual_seed(_SEED)
    for attention in attention_modules(turned):
        width = attention.qkv.out_features // 3 // attention.num_heads
        match, mix = (_rotations(attention.num_heads, width, generator).to(attention.qkv.weight.device) for _ in "qv")
        _turn_heads(attention, match, mix)
    return turned


def _rotations(heads: int, width: int, generator: torch.Generator) -> Tensor:
    """Return the block-diagonal matrix (float64) of one random orthogonal matrix [width, width] per head."""
    blocks = [torch.empty((width, width), dtype=torch.float64) for _ in range(heads)]
    for block in blocks:
        nn.init.orthogonal_(block, generator=generator)
    whole: Tensor = torch.block_diag(*blocks)
    return whole


@torch.no_grad()
def _turn_heads(attention: Any, match: Tensor, mix: Tensor) -> None:
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
