"""`real`: the oracle. Real training images, which data-free methods do without; the upper end of the scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from methods.contracts import Method, SynthesisContext, SyntheticImages
from methods.errors import UsageError


@dataclass(frozen=True)
class RealConfig:
    """Settings of the draw."""

    images: int = 32
    """How many (32, as all methods of the field)."""

    def __post_init__(self) -> None:
        if self.images < 1:
            raise UsageError("real needs images >= 1.")


class Real(Method):
    """A random draw of real calibration images."""

    name = "real"
    version = 1
    paper = "oracle"
    config_class = RealConfig
    needs_classes = False

    def needs_real_images(self, config: Any) -> bool:
        """Return True."""
        return True

    def image_passes(self, config: Any) -> float:
        """Return 0: no pass through the model."""
        return 0.0

    def synthesize(self, model: nn.Module, config: Any, context: SynthesisContext) -> SyntheticImages:
        """Draw the images; raises UsageError when the run was given none."""
        if context.real_images is None:
            raise UsageError("The method 'real' needs real calibration images (--calib-data DIR).")
        images = context.real_images(config.images)
        context.report(1, 1)
        return SyntheticImages(images)
