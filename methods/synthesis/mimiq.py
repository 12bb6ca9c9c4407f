"""The method `mimiq`: MimiQ, images for which the attention heads of a layer look alike, as they do for real ones.

Choi et al., "MimiQ: Low-Bit Data-Free Quantization of Vision Transformers with Encouraging Inter-Head Attention
Similarity", AAAI 2025: L = L_SSIM + CE + 2.5e-5 L_TV, with L_SSIM the mean over layers of 1 - SSIM^2 between the
heads' maps of a query (`methods.synthesis.mimiq_heads`), CE the cross-entropy to one random class per image and L_TV
PSAQ-ViT's V with its diagonal norms divided by the root of two. AdamW from 0.1 to 1e-3 by a cosine. At every step
all images are rolled, and every channel is shown as (x - m) / e^s + o, with m, s ~ U(-1, 1) and o Gaussian, its
deviation falling from 0.5 to 0 over the run. The training stage is the backend `mimiq_qat`.

Settings are those of a fork of the public code. Inferred: 32 images, the field's number, where MimiQ makes 10,000
in batches; one draw of m, s, o per image and channel, of the roll per axis; V as a norm over the batch, of the images
as shown; roll in proportion to the size of the image; Swin's maps without bias and mask; embedded models' steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.contracts import Method, SynthesisContext, SyntheticImages
from methods.errors import UsageError
from methods.models.architecture import patch_sites
from methods.models.attention import Operands, attention_operands
from methods.optimisation.loop import LoopSettings, optimize_images
from methods.optimisation.losses import soft_cross_entropy, total_variation
from methods.optimisation.snapshots import Resumption
from methods.optimisation.views import Look
from methods.synthesis.mimiq_heads import head_dissimilarity


@dataclass(frozen=True)
class MimiQConfig:
    """Settings of MimiQ's synthesis; defaults are its code's, but for `images`."""

    images: int = 32
    """How many, in one batch (code: 10,000 in all)."""
    iterations: int = 2000
    """AdamW steps."""
    learning_rate: float = 0.1
    """Ends of the cosine, in normalized pixel values."""
    final_rate: float = 1e-3
    """Ends of the cosine, in normalized pixel values."""
    weight_decay: float = 1e-6
    """AdamW's weight decay."""
    beta1: float = 0.9
    """AdamW's decay of the first moment."""
    beta2: float = 0.999
    """AdamW's decay of the second moment."""
    roll: int = 8
    """Largest offset in pixels of a 224 px image, twice as far in the second half."""
    colour: float = 1.0
    """Largest shift of a channel, in normalized pixel values, and log of its scale."""
    noise: float = 0.5
    """First deviation of its random offset, likewise."""
    ssim_weight: float = 1.0
    """Weight of L_SSIM."""
    tv_weight: float = 2.5e-5
    """Weight of L_TV."""
    precision: str = "fp32"
    """Of the forward passes, `fp32` or `bf16`."""

    def __post_init__(self) -> None:
        if self.images < 1 or not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise UsageError("MimiQ's synthesis needs images >= 1, beta1 and beta2 from 0 to below 1.")
        if min(self.roll, self.colour, self.noise, self.ssim_weight, self.tv_weight) < 0:
            raise UsageError("MimiQ's synthesis needs roll, colour, noise and its weights to be >= 0.")
        self.loop()

    def loop(self) -> LoopSettings:
        """Return the settings of the shared loop."""
        rate, decay, betas = self.learning_rate, self.weight_decay, (self.beta1, self.beta2)
        floor = self.final_rate / rate if rate > 0 else 0.0
        return LoopSettings(self.iterations, rate, betas, 0.0, self.precision, weight_decay=decay, floor=floor)


class MimiQ(Method):
    """Images of alike attention heads."""

    name = "mimiq"
    version = 1
    paper = "MimiQ (AAAI 2025)"
    config_class: ClassVar[type] = MimiQConfig
    resumable = True
    inferred = "32 images; granularity of roll and colour; norm and place of the variation; Swin's maps without bias"
    short: ClassVar[dict[str, int]] = {"iterations": 100}
    space: ClassVar = {
        "learning_rate": {"min": 0.01, "max": 0.5, "scaling": "log"},
        "ssim_weight": {"min": 0.01, "max": 10.0, "scaling": "log"},
        "tv_weight": {"min": 1e-6, "max": 1e-1, "scaling": "log"},
        "colour": {"choices": [0.0, 0.5, 1.0]},
    }

    def check(self, model: nn.Module, config: MimiQConfig) -> None:
        """Refuse models without attention between patches."""
        patch_sites(model)

    def image_passes(self, config: MimiQConfig) -> float:
        """Count every image at every step."""
        return config.iterations * config.images

    def synthesize(self, model: nn.Module, config: MimiQConfig, context: SynthesisContext) -> SyntheticImages:
        """Draw classes and noise, then optimise the pixels; refuses models without two heads in any layer."""
        objective = MimiQObjective(model, config, context)
        start = torch.randn((config.images, *context.space.shape), generator=context.generator).to(context.device)
        images, losses = optimize_images(
            start, objective, config.loop(), context.space, context.report, resumption=Resumption.of(context)
        )
        targets = objective.targets.cpu()
        return SyntheticImages(images.cpu(), targets, losses, {"labels": targets.argmax(dim=1)})


class MimiQObjective:
    """The loss of one synthesis; its classes are drawn at the start, how images are shown at every step."""

    def __init__(self, model: nn.Module, config: MimiQConfig, context: SynthesisContext) -> None:
        self.model, self.config, self.context = model, config, context
        self.sites = patch_sites(model)
        if config.ssim_weight > 0 and all(site.heads < 2 for site in self.sites):
            raise UsageError("MimiQ compares attention heads, and no layer of this model has two of them.")
        labels = torch.randint(context.classes, (config.images,), generator=context.generator)
        self.targets = functional.one_hot(labels, context.classes).float().to(context.device)

    def __call__(self, images: Tensor, step: int) -> Iterator[dict[str, Tensor]]:
        """Yield the weighted terms of one step, a micro-batch of images at a time."""
        look, size = self.begin(images, step), self.context.micro_batch
        for first in range(0, len(images), size):
            rows = slice(first, first + size)
            yield {name: term.sum() / len(images) for name, term in self.terms(look, images[rows], rows, step).items()}
        if self.config.tv_weight > 0:
            variation = total_variation(look.show(images), diagonal=math.sqrt(0.5))
            yield {"tv": self.config.tv_weight * variation}

    def begin(self, images: Tensor, step: int) -> Look:
        """Draw how the images are shown at a step."""
        config, space, generator = self.config, self.context.space, self.context.generator
        rest = 1 - step / config.iterations
        limit = round(space.pixels(config.roll) * (1 if rest > 0.5 else 2))
        look = Look.draw((config.images, space.shape[0]), limit, config.colour, config.noise * rest, generator)
        return look.to(images.device)

    def terms(self, look: Look, images: Tensor, rows: slice, step: int) -> dict[str, Tensor]:
        """Return every weighted term of the images, one value [n] per image."""
        shown = look.show(images, rows)
        with attention_operands(self.sites) as operands:
            logits = self.model(shown)
        guided = {"oh": soft_cross_entropy(logits, self.targets[rows])}
        return guided | self.attention_terms(operands, shown, rows, step)

    def attention_terms(self, operands: list[Operands], shown: Tensor, rows: slice, step: int) -> dict[str, Tensor]:
        """Return weighted L_SSIM per image, over the layers that have heads to compare."""
        if self.config.ssim_weight == 0:
            return {}
        found = zip(self.sites, operands, strict=True)
        losses = [head_dissimilarity(q, k, site.prefix) for site, (q, k) in found if site.heads > 1]
        return {"ssim": self.config.ssim_weight * torch.stack(losses).mean(dim=0)}
