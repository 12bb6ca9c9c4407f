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
