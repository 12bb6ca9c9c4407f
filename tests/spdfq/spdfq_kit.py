"""Tiny timm models with random weights, small syntheses of SPDFQ and the views they look at."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from methods.contracts import ImageSpace, SynthesisContext, SyntheticImages
from methods.optimisation import loop
from spdfq.config import SPDFQConfig
from spdfq.method import SPDFQ

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


HALF = ImageSpace(16, 16, (0.5,) * 3, (0.5,) * 3)
IMAGENET = ImageSpace(16, 16, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CONFIG = SPDFQConfig(images=4, iterations=3, alpha1=100.0)
VIT, SWIN = tiny_vit(), tiny_swin()


def synthesize(
    model: Any = VIT,
    seed: int = 0,
    space: ImageSpace = HALF,
    micro_batch: int = 1 << 20,
    classes: int = 10,
    **changes: Any,
) -> SyntheticImages:
    context = SynthesisContext(space, classes, seeded(seed), micro_batch=micro_batch)
    return SPDFQ().synthesize(model, dataclasses.replace(CONFIG, **changes), context)


def views_of(start: Tensor, regions: Tensor) -> list[Tensor]:
    """Return every whole image, then every region resized, each [1, 3, H, W] in float64."""
    seen = [image[None].double() for image in start]
    for image, top, left, side in regions.tolist():
        part = start[image : image + 1, :, top : top + side, left : left + side].double()
        seen.append(functional.interpolate(part, (16, 16), mode="bilinear", align_corners=False))
    return seen


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Record the images a synthesis starts from, its objective, and the regions of every step."""
    seen: dict[str, Any] = {"regions": []}
    original = loop.optimize_images

    def spy(start: Tensor, objective: Any, *rest: Any, **options: Any) -> Any:
        seen["start"], seen["objective"] = start.clone(), objective

        def watched(images: Tensor, step: int) -> Iterator[dict[str, Tensor]]:
            yield from objective(images, step)
            seen["regions"].append(list(objective.regions))

        return original(start, watched, *rest, **options)

    monkeypatch.setattr("spdfq.method.optimize_images", spy)
    return seen
