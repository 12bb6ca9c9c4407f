"""Turn residual streams and attention heads so that no channel stands out; stock layers, and the function is the same.

Rotations spread outliers over all channels before they are quantized (QuaRot, arXiv 2404.00456, for language models
with RMSNorm). A LayerNorm takes off the mean over channels first; it commutes with those rotations Q that leave the
vector of ones where it is (Q 1 = 1): mean(Q x) = mean(x), and |Q (x - mean x)| = |x - mean x|. So Q goes into the
layers that write to a stream and Q^T, with the norm's own weight and bias, into those that read it. That is this
project's way; on DeiT-T at W4A4 it lowers the KL divergence from floating point by a fifth
(`results/ablation_best`).

Heads turn by themselves: q R and k R have the products of q and k; v S leads through S^T W_proj where v does through
W_proj. That spreads what stands out over a head's channels, so that one scale serves them better (GLF-Q, 2026, turns
heads too; random rotations are inferred). Both are folded into the projections before and after attention. Where
nothing stands out it does harm: a value uniform over its range, which a uniform grid suits best, becomes a normal one.
So a judge may say, attention by attention, whether either turn lowers the error of the products (this project's).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from methods.models.architecture import attention_modules, residual_streams
from methods.models.residual import Reader, ResidualStream, Writer

Rounding: TypeAlias = Callable[[Tensor], Tensor]
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


@dataclass(frozen=True)
class Judge:
    """Says whether a rotation of heads helps: by what rounding does to products of these images [n, C, H, W]."""

    images: Tensor
    activation: Rounding
    """Fits the quantizer of an activation to it and returns it rounded."""
    weight: Rounding
    """The same for weights [out, in]."""

    def helps_matching(self, queries: Tensor, keys: Tensor, heads: int, turn: Tensor) -> bool:
        """Whether q k^T errs less, up to what all keys of a query share, with q and k [..., t, d] turned."""
        exact = _matched(queries, keys, heads)
        errors = []
        for q, k in ((queries, keys), (queries @ turn.T, keys @ turn.T)):
            error = _matched(self.activation(q), self.activation(k), heads) - exact
            errors.append((error - error.mean(-1, keepdim=True)).square().mean())
        return bool(errors[1] < errors[0])

    def helps_mixing(self, inputs: Tensor, weight: Tensor, turn: Tensor) -> bool:
        """Whether x W^T errs less with x [..., d] and W [out, d] turned."""
        exact = inputs @ weight.T
        pairs = ((inputs, weight), (inputs @ turn.T, weight @ turn.T))
        errors = [(self.activation(x) @ self.weight(w).T - exact).square().mean() for x, w in pairs]
        return bool(errors[1] < errors[0])


def _matched(queries: Tensor, keys: Tensor, heads: int) -> Tensor:
    """Return q k^T [..., heads, t, t] of [..., t, d]."""
    q, k = (x.unflatten(-1, (heads, -1)).transpose(-2, -3) for x in (queries, keys))
    matched: Tensor = q @ k.transpose(-1, -2)
    return matched


def heads_rotated(model: nn.Module, judge: Judge | None = None) -> nn.Module:
    """Return a copy of `model` that computes the same, its heads turned, all of them or where the judge says it helps.

    Queries and keys that pass a norm stay as they are, and so do values with a norm or a gate behind attention.
    """
    turned = copy.deepcopy(model).requires_grad_(False)
    generator = torch.Generator().manual_seed(_SEED)
    turns = []
    for attention in attention_modules(turned):
        width = attention.qkv.out_features // 3 // attention.num_heads
        drawn = [_rotations(attention.num_heads, width, generator).to(attention.qkv.weight.device) for _ in "qv"]
        turns.append(_Turn(attention, *drawn))
    if judge is not None:
        _judged(turned, turns, judge)
    for turn in turns:
        turn.apply()
    return turned


@torch.no_grad()
def _judged(model: nn.Module, turns: list[_Turn], judge: Judge) -> None:
    """Take back the turns that do not help, in one pass of the images."""
    hooks = []
    for turn in turns:
        hooks.append(turn.attention.qkv.register_forward_hook(partial(turn.judge_match, judge)))
        hooks.append(turn.attention.proj.register_forward_hook(partial(turn.judge_mix, judge)))
    try:
        model(judge.images)
    finally:
        for hook in hooks:
            hook.remove()


class _Turn:
    """q' = R q, k' = R k, v' = S v, W_proj' = W_proj S^T of one attention, R and S per head."""

    def __init__(self, attention: Any, match: Tensor, mix: Tensor) -> None:
        self.attention = attention
        self.keep = torch.eye(len(match), dtype=match.dtype, device=match.device)
        normed = not isinstance(getattr(attention, "q_norm", None), nn.Identity | None)
        gated = getattr(attention, "gate", None) is not None
        mixed = gated or not isinstance(getattr(attention, "norm", None), nn.Identity | None)
        self.match, self.mix = self.keep if normed else match, self.keep if mixed else mix

    def judge_match(self, judge: Judge, _layer: nn.Module, _arguments: Any, output: Tensor) -> None:
        """Keep R where it helps."""
        queries, keys, _ = output.chunk(3, dim=-1)
        if not judge.helps_matching(queries, keys, self.attention.num_heads, self.match.to(output.dtype)):
            self.match = self.keep

    def judge_mix(self, judge: Judge, layer: Any, arguments: tuple[Tensor], _output: Tensor) -> None:
        """Keep S where it helps."""
        if not judge.helps_mixing(arguments[0], layer.weight, self.mix.to(layer.weight.dtype)):
            self.mix = self.keep

    @torch.no_grad()
    def apply(self) -> None:
        """Fold the turns into the projections before and after attention."""
        turn = torch.block_diag(self.match, self.match, self.mix)
        qkv, proj = self.attention.qkv, self.attention.proj
        qkv.weight.copy_(turn @ qkv.weight.double())
        if qkv.bias is not None:
            qkv.bias.copy_(turn @ qkv.bias.double())
        proj.weight.copy_(proj.weight.double() @ self.mix.T)


def _rotations(heads: int, width: int, generator: torch.Generator) -> Tensor:
    """Return the block-diagonal matrix (float64) of one random orthogonal matrix [width, width] per head."""
    blocks = [torch.empty((width, width), dtype=torch.float64) for _ in range(heads)]
    for block in blocks:
        nn.init.orthogonal_(block, generator=generator)
    whole: Tensor = torch.block_diag(*blocks)
    return whole
