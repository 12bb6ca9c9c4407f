"""Tiny timm models with random weights for the tests of `spdfq`; importing this keeps torch on one thread."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

torch.set_num_threads(1)


def widened(model: nn.Module, seed: int) -> Any:
    """Return the model, frozen in eval mode, its parameters drawn wide enough that attention is not uniform.

    All of them: what timm leaves to torch's own stream differs from process to process.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter.copy_(0.1 * values + (1.0 if name.endswith("weight") else 0.0))
            else:
                parameter.copy_(values * (1.5 / math.sqrt(parameter[0].numel()) if name.endswith("weight") else 0.7))
    return model.eval().requires_grad_(False)


def tiny_vit(seed: int = 0, **options: Any) -> Any:
    """16 patches of 4 px, 16 channels, 4 blocks, 2 heads."""
    settings = {"img_size": 16, "patch_size": 4, "num_classes": 10, "embed_dim": 16, "depth": 4, "num_heads": 2}
    return widened(VisionTransformer(**(settings | options)), seed)


def tiny_swin(seed: int = 0) -> Any:
    """Two stages of two blocks: 8x8 map in four windows of 4x4 (the second block shifted), 4x4 map in one."""
    model = SwinTransformer(
        img_size=16, patch_size=2, num_classes=10, embed_dim=8, depths=(2, 2), num_heads=(2, 4), window_size=4
    )
    return widened(model, seed)


def noise(count: int, size: int = 16, seed: int = 1) -> Tensor:
    """Normal images [count, 3, size, size]."""
    return torch.randn((count, 3, size, size), generator=torch.Generator().manual_seed(seed))


def seeded(seed: int) -> torch.Generator:
    """Return a CPU generator."""
    return torch.Generator().manual_seed(seed)
