"""A quantized transformer block written out by hand in float64, the reference for the backends."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tiny_models import Array, double

from methods.quant.layers import QuantizedLayer
from methods.quant.quantizers.logarithmic import Log2Quantizer, LogSqrt2Quantizer


def layer_norm(x: Array, norm: Any) -> Array:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    scaled: Array = (x - mean) / np.sqrt(variance + norm.eps) * double(norm.weight) + double(norm.bias)
    return scaled


def fake(x: Array, quantizer: Any) -> Array:
    """Quantize in float64 with the scale and zero point of a quantizer."""
    scale = double(quantizer.scale)
    if isinstance(quantizer, LogSqrt2Quantizer):
        exponent = np.clip(np.round(-2 * np.log2(x / scale)), 0, None)
        roots: Array = np.where(exponent < 2**quantizer.bits, scale * np.exp2(-exponent / 2), 0.0)
        return roots
    if isinstance(quantizer, Log2Quantizer):
        powers: Array = scale * np.exp2(-np.clip(np.round(-np.log2(x / scale)), 0, 2**quantizer.bits - 1))
        return powers
    zero = double(quantizer.zero_point)
    low, high = quantizer.codes[0], quantizer.codes[-1]
    quotient = x.astype(np.float32) / scale.astype(np.float32)  # the largest weights are ties in single precision
    steps = np.clip(np.round(quotient).astype(np.float64) + zero, low, high) - zero
    return np.asarray(steps * scale, dtype=np.float64)


def linear(x: Array, layer: QuantizedLayer, original: Any) -> Array:
    weight = fake(double(original.weight), layer.weights)
    return fake(x, layer.inputs) @ weight.T + double(original.bias)


def block_reference(x: Array, block: Any, original: Any, heads: int) -> Array:
    """A pre-norm transformer block with every operand of every product quantized, head by head."""
    qkv = linear(layer_norm(x, original.norm1), block.attn.qkv, original.attn.qkv)
    parts = np.split(qkv, 3, axis=-1)
    query, key, value = (fake(part, q) for part, q in zip(parts, block.attn.qkv.outputs, strict=True))
    width = query.shape[-1] // heads
    mixed = np.empty_like(query)
    for n in range(len(x)):
        for h in range(heads):
            columns = slice(h * width, (h + 1) * width)
            scores = query[n, :, columns] @ key[n, :, columns].T / math.sqrt(width)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights = weights / weights.sum(-1, keepdims=True)
            mixed[n, :, columns] = fake(weights, block.attn.attn_drop) @ value[n, :, columns]
    x = x + linear(mixed, block.attn.proj, original.attn.proj)
    hidden = linear(layer_norm(x, original.norm2), block.mlp.fc1, original.mlp.fc1)
    hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    return x + linear(hidden, block.mlp.fc2, original.mlp.fc2)
