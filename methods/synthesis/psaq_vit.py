"""The method `psaq_vit`: PSAQ-ViT, images whose patches differ from each other as those of real images do.

Li, Ma, Chen, Xiao, Gu, "Patch Similarity Aware Data-Free Quantization for Vision Transformers", ECCV 2022:
L = L_PSE + L_OH + 0.05 L_TV, with L_PSE minus the sum over blocks of the patch-similarity entropy
(`methods.optimisation.patch_similarity`), L_OH the cross-entropy to one random class per image and L_TV = |V - v0|
(`methods.optimisation.losses`) of the images as shown. Defaults are those of the authors' public code, which the
paper leaves partly untold. Inferred: jitter in proportion to the size of the image, since the code knows 224 px
alone; v0 for other batches and sizes; all prefix tokens dropped where there are several; the fewer steps of the
embedded models; clamping to the model's own pixel box, where the code has ImageNet's for every model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from methods.contracts import Method, SynthesisContext, SyntheticImages
from methods.errors import UsageError
from methods.models.architecture import patch_sites
from methods.models.family import family_named
from methods.optimisation.loop import LoopSettings, from_noise
from methods.optimisation.losses import random_classes, soft_cross_entropy, total_variation, variation_target
from methods.optimisation.patch_similarity import DensityLaw, PatchEntropy
from methods.optimisation.views import Jitter


@dataclass(frozen=True)
class PSAQViTConfig:
    """Settings of PSAQ-ViT; defaults are its public code's."""

    images: int = 32
    """How many."""
    iterations: int = 1000
    """Adam steps in all."""
    rounds: int = 2
    """Into how many equal parts they are cut."""
    learning_rate: float = 0.2
    """Peak rate in normalized pixel values (0.20, Swin 0.25)."""
    warmup: float = 0.2
    """Share of a round's steps it rises over."""
    beta1: float = 0.5
    """Adam's decay of the first moment."""
    beta2: float = 0.9
    """Adam's decay of the second moment."""
    jitter: int = 15
    """Largest roll of the first round in pixels of a 224 px image, twice as far in the second and so on."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    pse_weight: float = 1.0
    """Weight of L_PSE."""
    tv_weight: float = 0.05
    """Weight of L_TV."""
    bandwidth: float = 0.01
    """Of the kernel that estimates the density (`methods.optimisation.patch_similarity`)."""
    points: int = 10
    """At which the density is read (`methods.optimisation.patch_similarity`)."""
    precision: str = "fp32"
    """Of the forward passes, `fp32` or `bf16`."""

    def __post_init__(self) -> None:
        if self.images < 1 or self.pse_weight < 0 or self.tv_weight < 0:
            raise UsageError("psaq_vit needs images >= 1, pse_weight >= 0 and tv_weight >= 0.")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise UsageError("psaq_vit needs beta1 and beta2 from 0 to below 1.")
        self.loop(), DensityLaw(self.bandwidth, self.points), Jitter((self.jitter,), self.flip, torch.Generator())

    def loop(self) -> LoopSettings:
        """Return the settings of the shared loop."""
        betas = (self.beta1, self.beta2)
        return LoopSettings(self.iterations, self.learning_rate, betas, self.warmup, self.precision, self.rounds)


class PSAQViT(Method):
    """Patch Similarity Aware data-free Quantization: its synthesis of images."""

    name = "psaq_vit"
    version = 2
    paper = "PSAQ-ViT (ECCV 2022)"
    config_class = PSAQViTConfig
    resumable = True
    inferred = "jitter and variation target for other sizes than 224 px; several prefix tokens"
    short: ClassVar = {"iterations": 100}
    space: ClassVar = {
        "learning_rate": {"min": 0.02, "max": 0.5, "scaling": "log"},
        "pse_weight": {"min": 0.01, "max": 10.0, "scaling": "log"},
        "tv_weight": {"min": 0.005, "max": 0.5, "scaling": "log"},
        "bandwidth": {"min": 0.003, "max": 0.1, "scaling": "log"},
        "jitter": {"choices": [0, 8, 15, 30]},
    }

    def default_config(self, model: str) -> PSAQViTConfig:
        """Return the defaults with the learning rate of the model's family."""
        return PSAQViTConfig(learning_rate=family_named(model).learning_rate)

    def check(self, model: nn.Module, config: PSAQViTConfig) -> None:
        """Refuse models without attention between patches."""
        if config.pse_weight > 0:
            patch_sites(model)

    def image_passes(self, config: PSAQViTConfig) -> float:
        """Count every image at every step."""
        return config.iterations * config.images

    def synthesize(self, model: nn.Module, config: PSAQViTConfig, context: SynthesisContext) -> SyntheticImages:
        """Draw classes and noise, then optimise the pixels; refuses models without attention it understands."""
        objective = _Objective(model, config, context)
        pixels = context.space.pixels(config.jitter)
        jitter = Jitter.growing(pixels, config.rounds, config.flip, context.generator)
        return from_noise(config.images, objective, config.loop(), context, jitter, objective.targets)


class _Objective:
    """The loss of one synthesis: its classes and v0 are drawn at the start."""

    def __init__(self, model: nn.Module, config: PSAQViTConfig, context: SynthesisContext) -> None:
        self.config = config
        law = DensityLaw(config.bandwidth, config.points)
        self.entropy = PatchEntropy(model, law, config.pse_weight, context.micro_batch)
        self.targets = random_classes(config.images, context)
        shape = torch.empty((config.images, *context.space.shape), device="meta")
        self.variation_target = variation_target(shape, context.generator)

    def __call__(self, shown: Tensor, step: int) -> Iterator[dict[str, Tensor]]:
        """Yield the weighted terms of one step, a micro-batch of images at a time."""
        yield from self.entropy.terms(shown, self._classes)
        if self.config.tv_weight > 0:
            yield {"tv": self.config.tv_weight * (total_variation(shown) - self.variation_target).abs()}

    def _classes(self, logits: Tensor, rows: slice) -> dict[str, Tensor]:
        """Return L_OH of a micro-batch."""
        return {"oh": soft_cross_entropy(logits, self.targets[rows]).sum() / self.config.images}
