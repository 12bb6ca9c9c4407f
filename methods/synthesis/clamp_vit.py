"""The method `clamp_vit`: CLAMP-ViT's first stage, images whose patches differ in what attention makes of them.

Ramachandran, Kundu, Krishna, "CLAMP-ViT: Contrastive Data-Free Learning for Adaptive Post-Training Quantization of
ViTs", ECCV 2024: patch-level contrastive loss + cross-entropy + total variation. Its public code has neither
generation nor search, so beside the idea all is inferred. In every layer each patch's output of attention (its heads
side by side, at length one) is an anchor i; of its spatial neighbours (3x3, in Swin within the window) the 4 most
similar are its positives P, all patches but these and itself its negatives, and

    L_PC = mean over layers, images, anchors and p in P of -log(e^(s_ip / t) / (e^(s_ip / t) + sum_n e^(s_in / t)))

with s the cosine similarity and t = 0.1; the choice of positives is constant for the gradient. Cross-entropy to one
random class per image, |V - v0|, jitter, optimizer and steps are PSAQ-ViT's (`methods.synthesis.psaq_vit`). The paper
repeats generation and search in turn; here the second stage is the backend `clamp_search`, and neither sees the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.contracts import Method, SynthesisContext, SyntheticImages
from methods.errors import UsageError
from methods.models.architecture import patch_sites
from methods.models.attention import attention_outputs
from methods.models.family import family_named
from methods.optimisation.loop import LoopSettings, from_noise
from methods.optimisation.losses import soft_cross_entropy, total_variation, variation_target
from methods.optimisation.views import Jitter


@dataclass(frozen=True)
class ClampViTConfig:
    """Settings of CLAMP-ViT's generation; all are inferred, those of the optimizer are PSAQ-ViT's."""

    images: int = 32
    """How many."""
    iterations: int = 1000
    """Adam steps in all."""
    rounds: int = 2
    """Into how many equal parts they are cut."""
    learning_rate: float = 0.2
    """Peak rate in normalized pixel values."""
    warmup: float = 0.2
    """Share of a round's steps it rises over."""
    jitter: int = 15
    """Largest roll of the first round in pixels of a 224 px image, twice as far in the second."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    radius: int = 1
    """Radius of the neighbourhood, in patches."""
    positives: int = 4
    """Positives of an anchor."""
    temperature: float = 0.1
    """The t of L_PC."""
    contrast_weight: float = 1.0
    """Weight of L_PC."""
    tv_weight: float = 0.05
    """Weight of L_TV."""
    precision: str = "fp32"
    """Of the forward passes, `fp32` or `bf16`."""

    def __post_init__(self) -> None:
        if self.images < 1 or self.contrast_weight < 0 or self.tv_weight < 0:
            raise UsageError("clamp_vit needs images >= 1, contrast_weight >= 0 and tv_weight >= 0.")
        self.loop(), Jitter((self.jitter,), self.flip, torch.Generator())
        Neighbourhood((2, 2), self.radius, self.positives, self.temperature)

    def loop(self) -> LoopSettings:
        """Return the settings of the shared loop."""
        steps, rate = self.iterations, self.learning_rate
        return LoopSettings(steps, rate, warmup=self.warmup, precision=self.precision, rounds=self.rounds)


class ClampViT(Method):
    """Contrastive generation of images, patch by patch."""

    name = "clamp_vit"
    version = 1
    paper = "CLAMP-ViT (ECCV 2024)"
    config_class = ClampViTConfig
    resumable = True
    inferred = (
        "everything but the idea: neighbourhood, positives, temperature, weights, optimizer; no turns with search"
    )
    short: ClassVar = {"iterations": 100}
    space: ClassVar = {
        "learning_rate": {"min": 0.02, "max": 0.5, "scaling": "log"},
        "contrast_weight": {"min": 0.01, "max": 10.0, "scaling": "log"},
        "tv_weight": {"min": 0.005, "max": 0.5, "scaling": "log"},
        "temperature": {"min": 0.02, "max": 1.0, "scaling": "log"},
        "positives": {"choices": [1, 2, 4, 8]},
    }

    def default_config(self, model: str) -> ClampViTConfig:
        """Return the defaults with the learning rate of the model's family."""
        return ClampViTConfig(learning_rate=family_named(model).learning_rate)

    def check(self, model: nn.Module, config: ClampViTConfig) -> None:
        """Refuse models without attention between patches."""
        if config.contrast_weight > 0:
            patch_sites(model)

    def image_passes(self, config: ClampViTConfig) -> float:
        """Count every image at every step."""
        return config.iterations * config.images

    def synthesize(self, model: nn.Module, config: ClampViTConfig, context: SynthesisContext) -> SyntheticImages:
        """Draw classes and noise, then optimise the pixels; refuses models whose maps are too small to contrast."""
        objective = _Objective(model, config, context)
        pixels = context.space.pixels(config.jitter)
        jitter = Jitter.growing(pixels, config.rounds, config.flip, context.generator)
        return from_noise(config.images, objective, config.loop(), context, jitter, objective.targets)


class _Objective:
    """The loss of one synthesis: its classes and v0 are drawn at the start."""

    def __init__(self, model: nn.Module, config: ClampViTConfig, context: SynthesisContext) -> None:
        self.model, self.config, self.context = model, config, context
        law = config.radius, config.positives, config.temperature
        sites = patch_sites(model) if config.contrast_weight > 0 else []
        self.places = [(s, Neighbourhood(s.grid, *law)) for s in sites if s.grid[0] * s.grid[1] > config.positives + 1]
        if sites and not self.places:
            raise UsageError("clamp_vit contrasts patches, and no attention map of this model has enough of them.")
        labels = torch.randint(context.classes, (config.images,), generator=context.generator)
        self.targets = functional.one_hot(labels, context.classes).float().to(context.device)
        shape = torch.empty((config.images, *context.space.shape), device="meta")
        self.variation_target = variation_target(shape, context.generator)

    def __call__(self, shown: Tensor, step: int) -> Iterator[dict[str, Tensor]]:
        """Yield the weighted terms of one step, a micro-batch of images at a time."""
        size = self.context.micro_batch
        for batch, targets in zip(shown.split(size), self.targets.split(size), strict=True):
            with attention_outputs([site for site, _ in self.places]) as outputs:
                logits = self.model(batch)
            terms = {"oh": soft_cross_entropy(logits, targets).sum() / len(shown)}
            if self.places:
                found = zip(self.places, outputs, strict=True)
                losses = [near.contrast(tokens[:, :, site.prefix :].flatten(3)) for (site, near), tokens in found]
                terms["contrast"] = self.config.contrast_weight * torch.stack(losses).mean(dim=0).sum() / len(shown)
            yield terms
        if self.config.tv_weight > 0:
            yield {"tv": self.config.tv_weight * (total_variation(shown) - self.variation_target).abs()}


@dataclass(frozen=True)
class Neighbourhood:
    """Which patches attract an anchor, and how strongly."""

    grid: tuple[int, int]
    """Rows and columns of the map."""
    radius: int
    """Radius of the square of neighbours, in patches."""
    positives: int
    """How many of them, the most similar ones, attract an anchor (fewer at the edges, where fewer are there)."""
    temperature: float
    """What cosine similarities are divided by."""

    def __post_init__(self) -> None:
        if self.radius < 1 or self.positives < 1 or self.temperature <= 0:
            raise UsageError("A contrast of patches needs radius >= 1, positives >= 1 and temperature > 0.")

    @cached_property
    def near(self) -> Tensor:
        """Return which patches are neighbours, not counting oneself: a mask [patches, patches]."""
        rows, columns = (torch.arange(size) for size in self.grid)
        places = torch.cartesian_prod(rows, columns)
        distance = (places[:, None] - places[None]).abs().amax(dim=-1)
        return (distance > 0) & (distance <= self.radius)

    def contrast(self, tokens: Tensor) -> Tensor:
        """Return L_PC of every image, [n], from tokens [n, windows, patches, d], at least positives + 2 patches.

        Every anchor's mean over its positives, then the mean over anchors and windows.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            units = functional.normalize(tokens.float(), dim=-1)
            scores = units @ units.transpose(-2, -1) / self.temperature
            near = self.near.to(tokens.device)
            count = min(self.positives, int(near.sum(dim=1).max()))
            neighbours = scores.detach().masked_fill(~near, -torch.inf)
            best, chosen = neighbours.topk(count, dim=-1)
            valid = best.isfinite()
            itself = torch.eye(len(near), dtype=torch.bool, device=tokens.device)
            left_out = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, chosen, valid) | itself
            negatives = scores.masked_fill(left_out, -torch.inf).logsumexp(dim=-1, keepdim=True)
            losses = functional.softplus(negatives - scores.gather(-1, chosen)) * valid
            return (losses.sum(dim=-1) / valid.sum(dim=-1)).mean(dim=(1, 2))
