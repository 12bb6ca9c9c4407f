"""PSAQ-ViT's placement: quantizers on every tensor that one operation hands to the next, not on operands alone.

Stock timm modules stay: layers become `QuantizedLayer`s with a quantizer on their output too, hooks quantize what
norms and blocks hand on, and attention is computed by a forward of its own, whose logits pass a quantizer.

Differences from the published code, which share its grids: ranges are widened to hold zero, and the class token
gets its first quantizer behind the position embedding, not before it as well.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from timm.layers import Attention
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from methods.bits import FLOAT, Bits
from methods.errors import UsageError
from methods.models.architecture import named_attentions, product_layers
from methods.models.trace import trace
from methods.quant.insert import note_placement, replace
from methods.quant.layers import QuantizedLayer
from methods.quant.quantizers.base import Quantizer
from methods.quant.recipe import Maker, made

_HANDED_ON = ("qkv", "proj", "fc2", "reduction", "head", "head_dist", "head.fc")
"""Layers whose output is quantized; behind the others stands an activation that is quantized instead."""


class StepwiseAttention(nn.Module):
    """Stock attention written out, so that its logits pass a quantizer; the softmax output stays as it is."""

    def __init__(self, stock: Any, logits: Quantizer) -> None:
        super().__init__()
        self.qkv: nn.Module = stock.qkv
        self.proj: nn.Module = stock.proj
        self.norm: nn.Module = getattr(stock, "norm", nn.Identity())
        self.num_heads: int = stock.num_heads
        self.scale: float = stock.scale
        self.logit_quantizer = logits

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; timm's classifiers pass no mask here."""
        assert attn_mask is None
        assert not is_causal
        query, key, value = self._operands(x)
        logits = self.logit_quantizer(query @ key.transpose(-2, -1))
        return self._mixed(logits.softmax(dim=-1), value)

    def _operands(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scaled query, key and value [B, heads, N, C/heads]."""
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1)
        )
        return query * self.scale, key, value

    def _mixed(self, weights: Tensor, value: Tensor) -> Tensor:
        """Return the projection of attention [B, heads, N, N] times value."""
        x = (weights @ value).transpose(1, 2).flatten(2)
        result: Tensor = self.proj(self.norm(x))
        return result


class StepwiseWindowAttention(StepwiseAttention):
    """Swin's: the relative position bias is quantized, and its sum with the logits again, before the mask is added."""

    def __init__(self, stock: Any, logits: Quantizer, biased: Quantizer, table: Quantizer) -> None:
        super().__init__(stock, logits)
        self.biased_logit_quantizer = biased
        self.relative_position_bias_table_quantizer = table
        self.relative_position_bias_table: Tensor = stock.relative_position_bias_table
        self.relative_position_index: Tensor
        self.register_buffer("relative_position_index", stock.relative_position_index, persistent=False)
        table.fit(self.relative_position_bias_table)

    def forward(self, x: Tensor, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map windows [B*W, N, C] to [B*W, N, C]; mask [W, N, N] is added to the logits."""
        query, key, value = self._operands(x)
        logits = self.logit_quantizer(query @ key.transpose(-2, -1))
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        logits = self.biased_logit_quantizer(logits + bias)
        if mask is not None:
            logits = (logits.unflatten(0, (-1, len(mask))) + mask[:, None]).flatten(0, 1)
        return self._mixed(logits.softmax(dim=-1), value)


def insert_everywhere(model: nn.Module, bits: Bits, weights: Maker, activations: Maker) -> nn.Module:
    """Return a copy of `model` with uncalibrated activation quantizers and fitted weight quantizers at all places.

    Places beside layers and attention have the bits of the module they stand at. Raises UsageError for models that
    are not supported. With 32 bits throughout the copy is the plain model.
    """
    check_protocol(model)
    quantized = copy.deepcopy(model).requires_grad_(False)
    if bits.float:
        return quantized
    for name, attention in named_attentions(quantized):
        if bits.of(name).activations != FLOAT:
            replace(quantized, name, _stepwise(attention, bits.of(name).activations, activations))
    for name, layer in product_layers(quantized):
        own = bits.of(name)
        outputs = made(activations, own.activations) if name.endswith(_HANDED_ON) else None
        swapped = QuantizedLayer(
            layer, made(activations, own.activations), made(weights, own.weights), [outputs] if outputs else None
        )
        replace(quantized, name, swapped)
    _quantize_embedding(quantized, bits, activations)
    for name, module in list(quantized.named_modules()):
        if isinstance(module, Block | SwinTransformerBlock):
            _quantize_output(module, made(activations, bits.of(f"{name}.mlp").activations))
            _quantize_sum(module.norm2, made(activations, bits.of(f"{name}.norm2").activations))
    note_placement(quantized, "every tensor", bits)
    return quantized


def check_protocol(model: nn.Module) -> None:
    """Raise UsageError for a model with products that the protocol does not know."""
    known = {name for name, _ in named_attentions(model)}
    if not known or any(product.layer is None and product.owner not in known for product in trace(model).products):
        raise UsageError(f"PSAQ-ViT's protocol is for stock ViT, DeiT and Swin, not for this {type(model).__name__}.")


def _stepwise(attention: Any, width: int, activations: Maker) -> StepwiseAttention:
    if isinstance(attention, Attention):
        if attention.gate is not None or not isinstance(attention.q_norm, nn.Identity):
            raise UsageError("PSAQ-ViT's protocol has no place for gated attention or norms of query and key.")
        return StepwiseAttention(attention, activations(width))
    return StepwiseWindowAttention(attention, activations(width), activations(width), activations(width))


def _quantize_embedding(model: Any, bits: Bits, activations: Maker) -> None:
    """Quantize what norms of patch embedding and tokens hand on, the position embedding, and the sum with it.

    A class token's last norm is quantized where the head takes it.
    """
    if model.global_pool != "token":
        _quantize_output(model.norm, made(activations, bits.of("norm").activations))
    if not isinstance(model.patch_embed.norm, nn.Identity):
        _quantize_output(model.patch_embed.norm, made(activations, bits.of("patch_embed.norm").activations))
    if getattr(model, "pos_embed", None) is not None:
        width = bits.of("pos_embed").activations
        if width != FLOAT:
            model.pos_embed_quantizer = activations(width)
            model.pos_embed_quantizer.fit(model.pos_embed)
            _quantize_output(model.pos_drop, activations(width))


def fold_embeddings(model: nn.Module) -> None:
    """Quantize position embedding and relative position tables once and for all."""
    for module in model.modules():
        for name in ("pos_embed", "relative_position_bias_table"):
            quantizer = getattr(module, f"{name}_quantizer", None)
            if quantizer is not None:
                parameter = getattr(module, name)
                with torch.no_grad():
                    parameter.copy_(quantizer.fake_quantize(parameter))


def _quantize_output(module: nn.Module, quantizer: Quantizer | None) -> None:
    if quantizer is not None:
        module.add_module("output_quantizer", quantizer)
        module.register_forward_hook(_pass_output)


def _pass_output(module: Any, _arguments: Any, output: Tensor) -> Tensor:
    quantized: Tensor = module.output_quantizer(output)
    return quantized


def _quantize_sum(norm: nn.Module, quantizer: Quantizer | None) -> None:
    """Quantize a residual sum where the norm behind it takes it, in place: the next sum takes the same tensor."""
    if quantizer is not None:
        norm.add_module("sum_quantizer", quantizer)
        norm.register_forward_pre_hook(_change_sum)


def _change_sum(norm: Any, arguments: tuple[Tensor]) -> None:
    with torch.no_grad():
        if norm.sum_quantizer.observing:
            norm.sum_quantizer(arguments[0])
        else:
            norm.sum_quantizer.fake_quantize_(arguments[0])
