"""Small syntheses of SPDFQ, and the views they look at."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
from tiny_spdfq import seeded, tiny_swin, tiny_vit
from torch import Tensor
from torch.nn import functional

from methods.contracts import ImageSpace, SynthesisContext, SyntheticImages
from methods.optimisation import loop
from spdfq.config import SPDFQConfig
from spdfq.method import SPDFQ

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
