"""Tiny timm models with random weights, and slow references, for the tests of `methods`.

Importing this keeps torch on one thread. Weights are drawn wide enough that attention is far from uniform:
with timm's own initial weights a wrong row or a lost mask would hide within the tolerance.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.deit import VisionTransformerDistilled
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from methods.contracts import ImageSpace
from methods.quant.layers import QuantizedLayer
from methods.quant.quantizers.logarithmic import Log2Quantizer, LogSqrt2Quantizer

torch.set_num_threads(1)
WIDE = ImageSpace(16, 16, (0.5,) * 3, (0.1,) * 3)
"""Pixels whose box, -5 to 5, holds noise."""
Array = NDArray[np.float64]


def randomized(model: nn.Module, seed: int = 0) -> Any:
    """Return the model, frozen in eval mode, every parameter drawn from its own wide law."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter.copy_(0.2 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
            elif name.endswith("weight"):
                parameter.copy_(1.5 * noise / math.sqrt(parameter[0].numel()))
            else:
                parameter.copy_(0.7 * noise)
    return model.eval().requires_grad_(False)


def tiny_vit(seed: int = 0, **options: Any) -> Any:
    """16 patches of 4 px, 16 channels, 2 blocks, 2 heads."""
    settings = {"img_size": 16, "patch_size": 4, "num_classes": 10, "embed_dim": 16, "depth": 2, "num_heads": 2}
    return randomized(VisionTransformer(**(settings | options)), seed)


def tiny_distilled(seed: int = 0) -> Any:
    """Class token and distillation token, two heads of classification."""
    model = VisionTransformerDistilled(
        img_size=16, patch_size=4, num_classes=10, embed_dim=16, depth=2, num_heads=2, weight_init="skip"
    )
    return randomized(model, seed)


def tiny_swin(seed: int = 0) -> Any:
    """Two stages of two blocks: 8x8 map in four windows of 4x4 (the second block shifted), 4x4 map in one."""
    model = SwinTransformer(
        img_size=16, patch_size=2, num_classes=10, embed_dim=8, depths=(2, 2), num_heads=(2, 4), window_size=4
    )
    return randomized(model, seed)


def noise(count: int, size: int = 16, seed: int = 1) -> Tensor:
    """Normal images [count, 3, size, size]."""
    return torch.randn((count, 3, size, size), generator=torch.Generator().manual_seed(seed))


def affine(x: Array, low: float, high: float, bits: int) -> tuple[Array, float, float]:
    """Quantize x on the asymmetric grid over [low, high] with zero; return (values, scale, zero point)."""
    low, high = min(low, 0.0), max(high, 0.0)
    top = 2**bits - 1
    scale = (high - low) / top
    zero = float(np.round(-low / scale))
    return scale * (np.clip(np.round(x / scale) + zero, 0, top) - zero), scale, zero


def affine_minmax(x: Array, bits: int) -> Array:
    """Quantize x on the asymmetric grid over its own range."""
    return affine(x, float(x.min()), float(x.max()), bits)[0]


def symmetric_channels(weight: Array, bits: int) -> Array:
    """Quantize every channel of a float32 weight on the symmetric grid over its own range.

    The largest weight of a channel lies half-way between two values of the grid, so the quotient, of which
    rounding makes the choice, is taken in single precision as in the model.
    """
    result = np.empty_like(weight)
    for channel, values in enumerate(weight.astype(np.float32)):
        scale = 2 * np.abs(values).max() / np.float32(2**bits - 1)
        result[channel] = np.clip(np.round(values / scale), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * float(scale)
    return result


def double(x: Tensor) -> Array:
    """Return a tensor as a float64 array."""
    return x.detach().double().numpy()


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
