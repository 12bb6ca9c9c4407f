"""The method `maskaq`: MaskAQ, MimiQ's images whose attention also survives quantization, and made anew for it.

"MaskAQ", ICML 2026 (arXiv 2606.04373), adds two terms to MimiQ's loss (`methods.synthesis.mimiq`), both a mean over
layers:
L_fb = -1/2 log(2 pi e v), v the variance of the cosine similarities between at most 64 sampled rows of attention
(weight 1); and L_align (weight 0.1), the mean absolute difference between the floating-point and the quantized
model's logits of the class token's attention to the patches, on the share r of patches with the largest
floating-point logits, r falling from 0.5 to 0.1 over the steps, with 30 % of them dropped at random. Images are made
anew with the student of the moment every 30 of 100 epochs of training: in four rounds.

Inferred, beside what is in `mimiq`: the student, untrained here: the model by the recipe of `minmax` at `student`
bits, its ranges those of the last round's images (of noise in the first) and, every `refresh` steps, of the present
ones; the last round's images are the result; rows are softmax over all tokens (Swin: without bias and mask), as many
from every head; gradients flow through both models; without a class token L_align takes the mean over queries (the
public code leaves it out in Swin). Not here: the token weights of the paper's distillation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.bits import Bits
from methods.contracts import SynthesisContext, SyntheticImages
from methods.errors import UsageError
from methods.models.attention import Operands, attention_operands
from methods.models.sites import AttentionSite, counterparts
from methods.optimisation.loop import optimize_images
from methods.optimisation.views import Look
from methods.quant.calibrate import calibrate
from methods.quant.insert import insert_quantizers
from methods.quant.recipe import MIN_MAX
from methods.synthesis.mimiq import MimiQ, MimiQConfig, MimiQObjective

_LEAST_VARIANCE = 1e-8


@dataclass(frozen=True)
class MaskAQConfig(MimiQConfig):
    """Settings of MaskAQ beside MimiQ's; `iterations` are those of every round."""

    rounds: int = 4
    """How often images are made."""
    student: str = "w4a4"
    """Bits of the quantized model."""
    refresh: int = 500
    """Steps between its calibrations."""
    fb_weight: float = 1.0
    """Weight of L_fb."""
    align_weight: float = 0.1
    """Weight of L_align."""
    rows: int = 64
    """Most rows compared per image and layer."""
    widest: float = 0.5
    """Share of patches aligned at the first and the last step."""
    narrowest: float = 0.1
    """Share of patches aligned at the first and the last step."""
    dropped: float = 0.3
    """Share of these left out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if Bits.parse(self.student).float or min(self.rounds, self.refresh) < 1 or self.rows < 3:
            raise UsageError("maskaq needs a quantized student, rounds >= 1, refresh >= 1 and rows >= 3.")
        shares = 0 < self.narrowest <= self.widest <= 1 and 0 <= self.dropped < 1
        if not shares or min(self.fb_weight, self.align_weight) < 0:
            raise UsageError("maskaq needs 0 < narrowest <= widest <= 1, 0 <= dropped < 1 and its weights >= 0.")

    def share(self, step: int) -> float:
        """Return r, the share of patches aligned at a step."""
        return self.widest + (self.narrowest - self.widest) * step / max(1, self.iterations - 1)


class MaskAQ(MimiQ):
    """Images of alike, varied heads whose attention survives quantization."""

    name = "maskaq"
    version = 2
    paper = "MaskAQ (ICML 2026)"
    config_class = MaskAQConfig
    resumable = False  # the student's ranges
    inferred = f"{MimiQ.inferred}; student and its refreshing; choice of rows; mean over queries in Swin"
    short: ClassVar = {"iterations": 50, "rounds": 2, "refresh": 25}
    space: ClassVar = MimiQ.space | {"align_weight": {"min": 0.001, "max": 10.0, "scaling": "log"}}

    def image_passes(self, config: MaskAQConfig) -> float:  # type: ignore[override]
        """Count every image at every step of every round, twice with a student, and the student's calibrations."""
        aligned, calibrations = config.align_weight > 0, 1 + (config.iterations - 1) // config.refresh
        return config.rounds * config.images * (config.iterations + aligned * (config.iterations + calibrations / 3))

    def synthesize(self, model: nn.Module, config: MaskAQConfig, context: SynthesisContext) -> SyntheticImages:  # type: ignore[override]
        """Make images in rounds; refuses models without two heads in any layer."""
        losses, steps, images = dict[str, list[float]](), config.rounds * config.iterations, torch.empty(0)
        for done in range(0, steps, config.iterations):
            objective = MaskAQObjective(model, config, context)
            start = torch.randn((config.images, *context.space.shape), generator=context.generator).to(context.device)
            objective.refresh(images if done else start)
            report = partial(self._report, context, done, steps)
            images, found = optimize_images(start, objective, config.loop(), context.space, report)
            losses = {name: losses.get(name, []) + values for name, values in found.items()}
        targets = objective.targets.cpu()
        return SyntheticImages(images.cpu(), targets, losses, {"labels": targets.argmax(dim=1)})

    @staticmethod
    def _report(context: SynthesisContext, done: int, steps: int, step: int, _: int) -> None:
        context.report(done + step, steps)


class MaskAQObjective(MimiQObjective):
    """MimiQ's loss with L_fb and L_align; what is sampled and dropped is drawn at every step for all images."""

    config: MaskAQConfig

    def __init__(self, model: nn.Module, config: MaskAQConfig, context: SynthesisContext) -> None:
        super().__init__(model, config, context)
        bits = Bits.parse(config.student)
        self.student = insert_quantizers(model, bits, MIN_MAX, context.space) if config.align_weight > 0 else None
        self.student_sites = counterparts(self.sites, model, self.student) if self.student else []

    def refresh(self, images: Tensor) -> None:
        """Calibrate the student on images [n, C, H, W]."""
        if self.student is not None:
            calibrate(self.student, images.detach())

    def begin(self, images: Tensor, step: int) -> Look:
        """Refresh the student when it is time to, and draw the look, rows and dropped positions of a step."""
        if step and step % self.config.refresh == 0:
            self.refresh(images)
        look, generator = super().begin(images, step), self.context.generator
        compared = self.sites if self.config.fb_weight > 0 else []
        self.samples = [RowSample.draw(site, self.config.rows, generator) for site in compared]
        shapes = [(len(images), site.windows, site.heads, math.prod(site.grid)) for site in self.student_sites]
        dropped = [torch.rand(shape, generator=generator) < self.config.dropped for shape in shapes]
        self.kept = [~mask.to(images.device) for mask in dropped]
        return look

    def attention_terms(self, operands: list[Operands], shown: Tensor, rows: slice, step: int) -> dict[str, Tensor]:
        """Return weighted L_SSIM, L_fb and L_align per image."""
        terms = super().attention_terms(operands, shown, rows, step)
        if self.samples:
            losses = [sample.loss(*pair) for sample, pair in zip(self.samples, operands, strict=True)]
            terms["fb"] = self.config.fb_weight * torch.stack(losses).mean(dim=0)
        if self.student is not None:
            with attention_operands(self.student_sites) as coarse:
                self.student(shown)
            sites, share = zip(self.sites, operands, coarse, self.kept, strict=True), self.config.share(step)
            losses = [masked_difference(site, exact, rough, kept[rows], share) for site, exact, rough, kept in sites]
            terms["align"] = self.config.align_weight * torch.stack(losses).mean(dim=0)
        return terms


@dataclass(frozen=True)
class RowSample:
    """Rows of a site's attention that are compared: those of some windows' queries, in every head."""

    site: AttentionSite
    windows: Tensor
    queries: Tensor

    @classmethod
    def draw(cls, site: AttentionSite, most: int, generator: torch.Generator) -> RowSample:
        """Draw at most `most` rows, as many from every head; one query per head where there are more heads."""
        patches = math.prod(site.grid)
        windows = max(1, min(site.windows, most // site.heads))
        queries = max(1, min(patches, most // (site.heads * windows)))
        drawn = [torch.randperm(n, generator=generator)[:k] for n, k in ((site.windows, windows), (patches, queries))]
        return cls(site, drawn[0], site.prefix + drawn[1])

    def loss(self, query: Tensor, key: Tensor) -> Tensor:
        """Return L_fb of every image, [n]: minus the entropy of a Gaussian with the variance of the rows' cosine
        similarities, from query and key [n, windows, heads, tokens, d]."""
        windows, queries = self.windows.to(query.device), self.queries.to(query.device)
        with torch.autocast(query.device.type, enabled=False):
            query, key = query[:, windows].float(), key[:, windows].float()
            rows = _logits(self.site, query[:, :, :, queries], key).softmax(dim=-1)
            units = functional.normalize(rows.flatten(1, 3), dim=-1)
            first, second = torch.triu_indices(units.shape[1], units.shape[1], 1, device=units.device)
            similarities = (units @ units.transpose(1, 2))[:, first, second]
            variance = similarities.var(dim=1, correction=0) + _LEAST_VARIANCE
            return -0.5 * torch.log(2 * math.pi * math.e * variance)


def masked_difference(site: AttentionSite, exact: Operands, rough: Operands, kept: Tensor, share: float) -> Tensor:
    """Return L_align of every image, [n]: the mean absolute difference of two models' logits of attention.

    exact, rough: query and key of the floating-point and the quantized model; kept: mask [n, windows, heads,
    patches] of what is not dropped; share: of the patches of a row, those with the largest exact logits.
    """
    target, found = _class_logits(site, *exact), _class_logits(site, *rough)
    count = max(1, round(share * target.shape[-1]))
    chosen = target.detach().topk(count, dim=-1).indices
    mask = torch.zeros_like(kept).scatter_(-1, chosen, True).logical_and_(kept)
    total = ((found - target).abs() * mask).sum(dim=(1, 2, 3))
    return total / mask.sum(dim=(1, 2, 3)).clamp(min=1)


def _class_logits(site: AttentionSite, query: Tensor, key: Tensor) -> Tensor:
    """Return logits over the patches [n, windows, heads, patches]: of the class token, or the mean over queries."""
    first, last = (0, 1) if site.class_token else (site.prefix, query.shape[-2])
    with torch.autocast(query.device.type, enabled=False):
        query = query[..., first:last, :].float().mean(dim=-2, keepdim=True)
        return _logits(site, query, key[..., site.prefix :, :].float()).squeeze(-2)


def _logits(site: AttentionSite, query: Tensor, key: Tensor) -> Tensor:
    return (query * site.factor) @ key.transpose(-2, -1)
