"""`noise`: Gaussian N(0, 1) images, the lower end of the scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from methods.contracts import Method, SynthesisContext, SyntheticImages
from methods.errors import UsageError


@dataclass(frozen=True)
class NoiseConfig:
    """Settings of the noise."""

    images: int = 32
    """How many (32, as all methods of the field)."""

    def __post_init__(self) -> None:
        if self.images < 1:
            raise UsageError("noise needs images >= 1.")


class Noise(Method):
    """Independent standard normal values in the model's normalized space, not clamped."""

    name = "noise"
    version = 1
    paper = "baseline of PSAQ-ViT (ECCV 2022) and its successors"
    config_class = NoiseConfig
    needs_classes = False

    def image_passes(self, config: Any) -> float:
        """Return 0: no pass through the model."""
        return 0.0

    def synthesize(self, model: nn.Module, config: Any, context: SynthesisContext) -> SyntheticImages:
        """Draw the images."""
        images = torch.randn((config.images, *context.space.shape), generator=context.generator)
        context.report(1, 1)
        return SyntheticImages(images)
