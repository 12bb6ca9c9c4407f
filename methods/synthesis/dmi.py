"""The method `dmi`: dense model inversion, from one random class per image to pixels.

The dense baseline of Hu et al., "Sparse Model Inversion: Efficient Inversion of Vision Transformers for Data-Free
Applications", ICML 2024: L = L_OH + 1e-4 V, with L_OH the cross-entropy to the class and V the total variation
(`methods.optimisation.losses`) of the images as shown, rolled along either axis and flipped. Defaults are those of
the public code for quantization. Inferred: rolls in proportion to the size of the image, since the code knows 224 px
alone; clamping to the box of valid pixels after every step; no rounding of the result to 8 bits; the fewer steps of
the embedded models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from methods.contracts import ImageSpace, Method, SynthesisContext, SyntheticImages
from methods.errors import UsageError
from methods.models.architecture import check_supported
from methods.optimisation.loop import LoopSettings, from_noise
from methods.optimisation.losses import random_classes, soft_cross_entropy, total_variation
from methods.optimisation.views import Jitter, View


@dataclass(frozen=True)
class DMIConfig:
    """Settings of dense inversion; defaults are the public code's."""

    images: int = 32
    """How many."""
    iterations: int = 4000
    """Adam steps."""
    learning_rate: float = 0.25
    """Constant rate, in normalized pixel values."""
    beta1: float = 0.5
    """Adam's decay of the first moment."""
    beta2: float = 0.99
    """Adam's decay of the second moment."""
    jitter: int = 28
    """Largest roll along either axis, in pixels of a 224 px image."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    tv_weight: float = 1e-4
    """Weight of V."""
    precision: str = "fp32"
    """Of the forward passes, `fp32` or `bf16`."""

    def __post_init__(self) -> None:
        if self.images < 1 or self.tv_weight < 0 or self.jitter < 0 or not 0 <= self.flip <= 1:
            raise UsageError("Inversion needs images >= 1, tv_weight >= 0, jitter >= 0 and flip from 0 to 1.")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise UsageError("Inversion needs beta1 and beta2 from 0 to below 1.")
        self.loop()

    def loop(self) -> LoopSettings:
        """Return the settings of the shared loop."""
        betas = (self.beta1, self.beta2)
        return LoopSettings(self.iterations, self.learning_rate, betas, 0.0, self.precision, floor=1.0)

    def limit(self, space: ImageSpace) -> int:
        """Return the largest roll, in pixels of the model's images."""
        return round(space.pixels(self.jitter))


class InversionLoss:
    """L_OH and V of one synthesis, whose classes are drawn at the start and sorted; it shows the images itself."""

    def __init__(self, model: nn.Module, config: DMIConfig, context: SynthesisContext) -> None:
        self.model, self.config, self.context = model, config, context
        drawn = random_classes(config.images, context)
        self.targets = drawn[drawn.argmax(dim=1).argsort()]
        self.jitter = Jitter((config.limit(context.space),), config.flip, context.generator, independent=True)

    def __call__(self, images: Tensor, step: int) -> Iterator[dict[str, Tensor]]:
        """Yield the weighted terms of one step, a micro-batch of images at a time."""
        view = self.view(step)
        shown, first = view.show(images), 0
        for batch in shown.split(self.context.micro_batch):
            rows = slice(first, first + len(batch))
            first = rows.stop
            logits = self.logits(batch, rows, view, step)
            yield {"oh": soft_cross_entropy(logits, self.targets[rows]).sum() / len(shown)}
        if self.config.tv_weight > 0:
            yield {"tv": self.config.tv_weight * total_variation(shown)}

    def view(self, step: int) -> View:
        """Draw how the images are shown at a step."""
        return self.jitter.draw(0)

    def logits(self, batch: Tensor, rows: slice, view: View, step: int) -> Tensor:
        """Return the model's logits of a micro-batch of the images as shown, those of `rows`."""
        logits: Tensor = self.model(batch)
        return logits

    def minimised(self) -> SyntheticImages:
        """Draw noise and optimise the pixels."""
        return from_noise(self.config.images, self, self.config.loop(), self.context, targets=self.targets)


class DMI(Method):
    """Dense model inversion."""

    name = "dmi"
    version = 1
    paper = "dense inversion of SMI (ICML 2024)"
    config_class: ClassVar[type] = DMIConfig
    resumable = True
    inferred = "rolls for other sizes than 224 px; clamping"
    short: ClassVar = {"iterations": 100}
    space: ClassVar = {
        "learning_rate": {"min": 0.02, "max": 0.5, "scaling": "log"},
        "tv_weight": {"min": 1e-5, "max": 0.1, "scaling": "log"},
        "jitter": {"choices": [0, 8, 15, 28]},
    }

    def image_passes(self, config: Any) -> float:
        """Count every image at every step."""
        return float(config.iterations * config.images)

    def synthesize(self, model: nn.Module, config: Any, context: SynthesisContext) -> SyntheticImages:
        """Draw classes and noise, then optimise the pixels; refuses models of other families."""
        check_supported(model)
        return InversionLoss(model, config, context).minimised()
