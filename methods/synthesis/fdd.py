"""The method `fdd`: FDD-DFQ-ViT, patch-similarity synthesis that learns coarse shapes before fine detail.

PRCV 2023, its authors' public code. L = L_OH + L_PSE + 0.05 L_TV of PSAQ-ViT (`methods.synthesis.psaq_vit`), but the
model sees images through a filter of their spectrum, in five rounds that let ever more of it pass. In the first half
of a round it is a disk: |F^-1 M F x| of the pixels x, M one where the distance to the centre of the shifted spectrum
is within a radius. In the second half it is a ring, and the classes are learned in halves from the label and from
what the model makes of the disk: 1/2 CE + 1/2 KL(softmax(F(disk)) || softmax(F(ring))), the first without gradient.
Inferred: both edges of a ring belong to it; radii and jitter in proportion to half the shorter side, since the code
knows 224 px alone; the fewer steps of the embedded models; what `psaq_vit` infers of variation and tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.contracts import ImageSpace, Method, SynthesisContext, SyntheticImages
from methods.errors import UsageError
from methods.models.architecture import patch_sites
from methods.models.family import family_named
from methods.optimisation.loop import LoopSettings, from_noise
from methods.optimisation.losses import random_classes, soft_cross_entropy, total_variation, variation_target
from methods.optimisation.patch_similarity import DensityLaw, PatchEntropy
from methods.optimisation.views import Jitter


@dataclass(frozen=True)
class Ring:
    """Frequencies whose distance to the centre of the shifted spectrum is from `inner` to `outer`, both included,
    in units of half the shorter side; a disk where `inner` is 0."""

    inner: float
    outer: float

    def mask(self, height: int, width: int, device: torch.device) -> Tensor:
        """Return, for the half spectrum [height, width // 2 + 1] of real images, where it passes, as bool."""
        rows = torch.fft.ifftshift(torch.arange(height, dtype=torch.float64, device=device) - height // 2)
        columns = torch.arange(width // 2 + 1, dtype=torch.float64, device=device)
        distance: Tensor = torch.hypot(rows[:, None], columns[None]) / (min(height, width) / 2)
        return (distance >= self.inner) & (distance <= self.outer)


def filtered(images: Tensor, ring: Ring, space: ImageSpace) -> Tensor:
    """Return normalized images [n, C, H, W] of whose pixels only the ring is left: |F^-1 M F x|, differentiable.

    The mask is the same on both sides of the centre, so that the inverse is real and half the spectrum is enough.
    """
    height, width = images.shape[-2:]
    mean = torch.tensor(space.mean, device=images.device)[:, None, None]
    std = torch.tensor(space.std, device=images.device)[:, None, None]
    spectrum = torch.fft.rfft2(images * std + mean) * ring.mask(height, width, images.device)
    pixels: Tensor = torch.fft.irfft2(spectrum, s=(height, width)).abs()
    return (pixels - mean) / std


ROUNDS = (
    (Ring(0.0, 0.2), Ring(0.1, 0.4)),
    (Ring(0.0, 0.3), Ring(0.2, 0.5)),
    (Ring(0.0, 0.4), Ring(0.3, 0.6)),
    (Ring(0.0, 0.5), Ring(0.4, 0.7)),
    (Ring(0.0, 0.6), Ring(0.0, 1.0)),
)
"""What passes in the two halves of every round (code)."""


@dataclass(frozen=True)
class FDDConfig:
    """Settings of FDD-DFQ-ViT; defaults are its public code's."""

    images: int = 32
    """How many."""
    iterations: int = 1000
    """Adam steps in all, in five equal rounds."""
    learning_rate: float = 0.2
    """Peak rate in normalized pixel values (0.20, Swin 0.25)."""
    warmup: float = 0.2
    """Share of a round's steps it rises over."""
    beta1: float = 0.5
    """Adam's decay of the first moment."""
    beta2: float = 0.9
    """Adam's decay of the second moment."""
    jitter: float = 0.3
    """How far the largest roll grows from zero over five rounds, in half sides."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    distilled: float = 0.5
    """Share of the KL divergence in the second half of a round."""
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
        if self.images < 1 or min(self.pse_weight, self.tv_weight, self.jitter) < 0:
            raise UsageError("fdd needs images >= 1, and pse_weight, tv_weight and jitter >= 0.")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and 0 <= self.distilled <= 1 and 0 <= self.flip <= 1):
            raise UsageError("fdd needs beta1 and beta2 from 0 to below 1, distilled and flip from 0 to 1.")
        self.loop(), DensityLaw(self.bandwidth, self.points)

    def loop(self) -> LoopSettings:
        """Return the settings of the shared loop."""
        betas = (self.beta1, self.beta2)
        return LoopSettings(self.iterations, self.learning_rate, betas, self.warmup, self.precision, len(ROUNDS))

    def limits(self, space: ImageSpace) -> tuple[int, ...]:
        """Return the largest roll of every round, in pixels of the model's images."""
        half = min(space.height, space.width) / 2
        return tuple(int(half * self.jitter * index / len(ROUNDS)) for index in range(len(ROUNDS)))


class FDD(Method):
    """Frequency-domain curriculum on patch-similarity synthesis."""

    name = "fdd"
    version = 2
    paper = "FDD-DFQ-ViT (PRCV 2023)"
    config_class = FDDConfig
    resumable = True
    inferred = "edges of the rings; radii and jitter for other sizes than 224 px"
    short: ClassVar = {"iterations": 100}
    space: ClassVar = {
        "learning_rate": {"min": 0.02, "max": 0.5, "scaling": "log"},
        "pse_weight": {"min": 0.01, "max": 10.0, "scaling": "log"},
        "tv_weight": {"min": 0.005, "max": 0.5, "scaling": "log"},
        "distilled": {"min": 0.0, "max": 1.0},
    }

    def default_config(self, model: str) -> FDDConfig:
        """Return the defaults with the learning rate of the model's family."""
        return FDDConfig(learning_rate=family_named(model).learning_rate)

    def check(self, model: nn.Module, config: FDDConfig) -> None:
        """Refuse models without attention between patches."""
        if config.pse_weight > 0:
            patch_sites(model)

    def image_passes(self, config: FDDConfig) -> float:
        """Count every image at every step, and a forward pass, a third of it, more in the second halves."""
        return config.iterations * config.images * (1 + 1 / 6)

    def synthesize(self, model: nn.Module, config: FDDConfig, context: SynthesisContext) -> SyntheticImages:
        """Draw classes and noise, then optimise the pixels; refuses models without attention it understands."""
        objective = _Objective(model, config, context)
        jitter = Jitter(config.limits(context.space), config.flip, context.generator)
        return from_noise(config.images, objective, config.loop(), context, jitter, objective.targets)


class _Objective:
    """The loss of one synthesis: its classes and v0 are drawn at the start."""

    def __init__(self, model: nn.Module, config: FDDConfig, context: SynthesisContext) -> None:
        self.model, self.config, self.space, self.loop = model, config, context.space, config.loop()
        law = DensityLaw(config.bandwidth, config.points)
        self.entropy = PatchEntropy(model, law, config.pse_weight, context.micro_batch)
        self.targets = random_classes(config.images, context)
        shape = torch.empty((config.images, *context.space.shape), device="meta")
        self.variation_target = variation_target(shape, context.generator)

    def __call__(self, shown: Tensor, step: int) -> Iterator[dict[str, Tensor]]:
        """Yield the weighted terms of one step, a micro-batch of images at a time."""
        index = self.loop.round_of(step)
        span, (disk, ring) = self.loop.span(index), ROUNDS[index]
        second = 2 * (step - span.start) >= len(span)
        look = partial(filtered, ring=ring if second else disk, space=self.space)
        guide = filtered(shown.detach(), disk, self.space) if second and self.config.distilled > 0 else None
        yield from self.entropy.terms(shown, partial(self._classes, guide), look)
        if self.config.tv_weight > 0:
            yield {"tv": self.config.tv_weight * (total_variation(look(shown)) - self.variation_target).abs()}

    def _classes(self, guide: Tensor | None, logits: Tensor, rows: slice) -> dict[str, Tensor]:
        """Return the terms of a micro-batch's logits: from the labels, and from the model's word on the guide."""
        from_labels = soft_cross_entropy(logits, self.targets[rows]).sum() / self.config.images
        if guide is None:
            return {"oh": from_labels, "kl": torch.zeros_like(from_labels)}
        with torch.no_grad():
            wanted = self.model(guide[rows]).log_softmax(dim=1)
        divergence = functional.kl_div(logits.log_softmax(dim=1), wanted, reduction="sum", log_target=True)
        share = self.config.distilled
        return {"oh": (1 - share) * from_labels, "kl": share * divergence / self.config.images}
