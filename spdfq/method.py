"""The method `spdfq`: L_G = alpha1 L_APA + L_SL + 0.05 L_TV over whole images and their regions.

arXiv 2412.16553 (SPDFQ; SARDFQ at ICCV 2025). Every part can be switched off on its own: without SL targets
are one-hot, without MSR there are no regions, without APA no attention is read. Images are shown as they are,
without PSAQ-ViT's rolls and flips, unless `jitter` and `flip` are set: the paper does not say (inferred). Priors
then go along with the images, and every view, region or whole, is moved alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from methods.contracts import Method, SynthesisContext, SyntheticImages
from methods.errors import UsageError, unknown_name
from methods.models.attention import attention_maps
from methods.models.sites import AttentionSite
from methods.optimisation.loop import LoopSettings, optimize_images
from methods.optimisation.losses import soft_cross_entropy, total_variation, variation_target
from methods.optimisation.views import Jitter, View
from spdfq.ablation import ROWS
from spdfq.apa import Alignment, check_movable, deep_sites, draw_priors, measured_priors
from spdfq.defaults import defaults_for
from spdfq.msr import Region, RegionLaw, crops
from spdfq.priors import PriorLaw
from spdfq.soft_labels import SoftLabelLaw, hard_labels


@dataclass(frozen=True)
class SPDFQConfig:
    """Settings of SPDFQ. "paper" marks what the paper states; all else is inferred and a choice of ours.

    images: how many (paper: 32); iterations: Adam steps (paper: 1000); learning_rate, warmup: peak rate, in
    normalized pixel values, and the share of steps it rises over (PSAQ-ViT's values); alpha1: weight of
    L_APA (paper: tuned per model, 1 to 1e5); tv_weight (paper: 0.05); apa, msr, soft_labels: the three
    parts; prior_law, components (paper: 5), combine, width_min, width_max, rotate: the priors
    (`spdfq.priors`); first_layer: S/L (paper: 1/2); depth_weight: l/L (paper: on); class_token_share: see
    `spdfq.apa`; regions: K_MSR (paper: 4); region_min, region_max: sides in image sides;
    region_schedule: `all` regions at every step or a random `one` of each image; redraw_regions: new
    regions at every step; interpolation: of the crops; eps1, eps2 (paper: 5, 10), other: the soft labels
    (`spdfq.soft_labels`); jitter: largest roll of a step, in pixels of a 224 px image, flip: probability of a
    horizontal flip (PSAQ-ViT: 15, then 30; 0.5); precision: of the forward passes (`methods.optimisation.loop`).
    """

    images: int = 32
    iterations: int = 1000
    learning_rate: float = 0.2
    warmup: float = 0.1
    alpha1: float = 1e4
    tv_weight: float = 0.05
    apa: bool = True
    msr: bool = True
    soft_labels: bool = True
    prior_law: str = "gmm"
    components: int = 5
    combine: str = "sum"
    width_min: float = 0.05
    width_max: float = 0.25
    rotate: bool = True
    first_layer: float = 0.5
    depth_weight: bool = True
    class_token_share: bool = False
    regions: int = 4
    region_min: float = 0.25
    region_max: float = 0.5
    region_schedule: str = "all"
    redraw_regions: bool = False
    interpolation: str = "bilinear"
    eps1: float = 5.0
    eps2: float = 10.0
    other: float = 1.0
    jitter: int = 0
    flip: float = 0.0
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.images < 1 or self.alpha1 < 0 or self.tv_weight < 0:
            raise UsageError("spdfq needs images >= 1, alpha1 >= 0 and tv_weight >= 0.")
        if not 0 <= self.first_layer <= 1:
            raise UsageError("spdfq.first_layer is a share of the depth, 0 to 1.")
        if self.jitter < 0 or not 0 <= self.flip <= 1:
            raise UsageError("spdfq needs jitter >= 0 and 0 <= flip <= 1.")
        if self.interpolation not in ("bilinear", "bicubic", "nearest"):
            raise unknown_name("interpolation", self.interpolation, ("bilinear", "bicubic", "nearest"))
        if self.region_schedule not in ("all", "one"):
            raise unknown_name("region schedule", self.region_schedule, ("all", "one"))
        self.loop(), self.priors(), self.region_law(), self.label_law()

    def loop(self) -> LoopSettings:
        """Return the settings of the shared loop."""
        return LoopSettings(self.iterations, self.learning_rate, warmup=self.warmup, precision=self.precision)

    def views(self, context: SynthesisContext) -> Jitter | None:
        """Return what draws the views of the steps, None where images stay in place."""
        limit = round(context.space.pixels(self.jitter))
        return Jitter((limit,), self.flip, context.generator) if limit or self.flip else None

    def priors(self) -> PriorLaw:
        """Return the law of the attention priors."""
        return PriorLaw(self.prior_law, self.components, self.combine, self.width_min, self.width_max, self.rotate)

    def region_law(self) -> RegionLaw:
        """Return the law of the regions."""
        return RegionLaw(self.regions, self.region_min, self.region_max)

    def label_law(self) -> SoftLabelLaw:
        """Return the law of the soft labels."""
        return SoftLabelLaw(self.eps1, self.eps2, self.other)


class SPDFQ(Method):
    """Semantics Prompting Data-Free Quantization."""

    name = "spdfq"
    version = 1
    paper = "SPDFQ / SARDFQ (arXiv 2412.16553; ICCV 2025)"
    config_class = SPDFQConfig
    inferred = "laws of priors, regions and other soft labels; alpha1 per model; learning rate, schedule, no jitter"
    ablation = ROWS
    ablation_setting = "W4A4 DeiT-S"
    space: ClassVar = {
        "alpha1": {"min": 1.0, "max": 1e5, "scaling": "log"},
        "learning_rate": {"min": 0.02, "max": 0.5, "scaling": "log"},
        "components": {"choices": [1, 3, 5, 7]},
        "regions": {"choices": [1, 2, 4, 6]},
        "eps1": {"min": 2.0, "max": 10.0},
    }

    def default_config(self, model: str) -> SPDFQConfig:
        """Return the paper's defaults with the model's own alpha1, learning rate and iterations."""
        return SPDFQConfig(**defaults_for(model).settings())

    def needs_real_images(self, config: SPDFQConfig) -> bool:
        """Return True only for the ablation that takes its priors from real images."""
        return config.apa and config.prior_law == "real"

    def image_passes(self, config: SPDFQConfig) -> float:
        """Count whole images and the mean number of regions, at every step."""
        regions = (config.regions + 1) / 2 if config.region_schedule == "all" else 1.0
        regions *= config.msr
        return config.iterations * config.images * (1 + regions)

    def synthesize(self, model: nn.Module, config: SPDFQConfig, context: SynthesisContext) -> SyntheticImages:
        """Draw targets, regions and priors, then optimise the pixels."""
        objective = _Objective(model, config, context)
        start = torch.randn((config.images, *context.space.shape), generator=context.generator)
        images, losses = optimize_images(
            start.to(context.device), objective, config.loop(), context.space, context.report
        )
        regions = torch.tensor([[r.image, r.top, r.left, r.side] for r in objective.regions], dtype=torch.int64)
        labels = torch.tensor([chosen[0] for chosen in objective.relevant])
        return SyntheticImages(
            images=images.cpu(),
            targets=objective.targets[: config.images].cpu(),
            losses=losses,
            extras={"regions": regions.reshape(-1, 4), "labels": labels, **objective.reached(images)},
        )


class _Objective:
    """L_G of one synthesis; all that is random in it is drawn at the start, or for redrawn regions per step."""

    def __init__(self, model: nn.Module, config: SPDFQConfig, context: SynthesisContext) -> None:
        self.model, self.config, self.context = model, config, context
        generator, device = context.generator, context.device
        self.regions = self._draw_regions()
        self.relevant = self._draw_classes()
        if config.soft_labels:
            targets = config.label_law().draw(self.relevant, context.classes, generator)
        else:
            targets = hard_labels(self.relevant, context.classes)
        self.targets = targets.to(device)
        sites = deep_sites(model, config.first_layer) if config.apa and config.alpha1 > 0 else []
        self.jitter = config.views(context)
        if self.jitter:
            check_movable(sites)
        self.alignment = Alignment(sites, self._priors(sites), config.depth_weight, config.class_token_share)
        shape = torch.empty((config.images, *context.space.shape), device="meta")
        self.variation_target = variation_target(shape, generator)

    def _priors(self, sites: list[AttentionSite]) -> list[Tensor]:
        """Draw the priors, or measure them on real images for the ablation that does so."""
        config, context = self.config, self.context
        if config.prior_law != "real":
            drawn = draw_priors(sites, config.images, config.priors(), context.generator)
            return [prior.to(context.device) for prior in drawn]
        if context.real_images is None:
            raise UsageError("spdfq.prior_law=real needs real calibration images (--calib-data DIR).")
        return measured_priors(self.model, sites, context.real_images(config.images).to(context.device))

    def reached(self, images: Tensor) -> dict[str, Tensor]:
        """Return, to look at, the first head's map of the last site: its prior and the attention reached.

        Both [n, rows, columns]; for windowed attention the first window's. Empty without APA.
        """
        if not self.alignment.sites:
            return {}
        site = self.alignment.sites[-1]
        with torch.no_grad(), attention_maps([site], len(images)) as maps:
            self.model(images)
        shape = (len(images), *site.grid)
        return {
            "attention_prior": self.alignment.priors[-1][:, 0, 0].reshape(shape).cpu().clone(),
            "attention_reached": maps[0][:, 0, 0].reshape(shape).cpu().clone(),
        }

    def _draw_regions(self) -> list[Region]:
        """Draw the regions of all images, none without MSR; as many per image as there are other classes."""
        if not self.config.msr:
            return []
        space, law = self.context.space, self.config.region_law()
        most = min(law.most, self.context.classes - 1)
        law = RegionLaw(most, law.side_min, law.side_max)
        return law.draw(self.config.images, space.height, space.width, self.context.generator)

    def _draw_classes(self) -> list[list[int]]:
        """Return the relevant classes of every view: whole images first, then the regions.

        A whole image's first class is its own and the others are its regions'; all differ.
        """
        images: list[list[int]] = []
        for image in range(self.config.images):
            count = 1 + sum(region.image == image for region in self.regions)
            order = torch.randperm(self.context.classes, generator=self.context.generator)
            images.append(order[:count].tolist())
        taken = [iter(chosen[1:]) for chosen in images]
        return images + [[next(taken[region.image])] for region in self.regions]

    def __call__(self, images: Tensor, step: int) -> Iterator[dict[str, Tensor]]:
        """Yield the weighted terms of one step, a micro-batch of views at a time."""
        if self.config.redraw_regions and self.regions and step > 0:
            self._redraw()
        visited = self._visited()
        view = self.jitter.draw(0) if self.jitter else None
        alignment = self.alignment.seen(view, self.context.space.shape[1:]) if view else self.alignment
        views = len(images) + len(visited)
        for start in range(0, views, self.context.micro_batch):
            stop = min(start + self.context.micro_batch, views)
            yield self._terms(images, visited, start, stop, alignment, view)
        if self.config.tv_weight > 0:
            yield {"tv": self.config.tv_weight * (total_variation(images) - self.variation_target).abs()}

    def _visited(self) -> list[int]:
        """Return the indices of the regions this step looks at: all, or a random one of each image."""
        if self.config.region_schedule == "all":
            return list(range(len(self.regions)))
        order = torch.randperm(len(self.regions), generator=self.context.generator).tolist()
        return sorted({self.regions[index].image: index for index in order}.values())

    def _redraw(self) -> None:
        """Move every region to a new place, keeping how many an image has and their labels."""
        space, law, moved = self.context.space, self.config.region_law(), list[Region]()
        for image in range(self.config.images):
            count = sum(region.image == image for region in self.regions)
            moved += law.place(image, count, space.height, space.width, self.context.generator)
        self.regions = moved

    def _terms(
        self, images: Tensor, visited: list[int], start: int, stop: int, alignment: Alignment, view: View | None
    ) -> dict[str, Tensor]:
        """Return alpha1 L_APA and L_SL of the views start..stop (whole images, then the visited regions), as
        shares of the whole step's terms."""
        count = len(images)
        whole = images[start : min(stop, count)]
        parts = visited[max(0, start - count) : max(0, stop - count)]
        batch = torch.cat([whole, crops(images, [self.regions[i] for i in parts], self.config.interpolation)])
        targets = torch.cat([self.targets[start : start + len(whole)], self.targets[[count + i for i in parts]]])
        with attention_maps(alignment.sites if len(whole) else [], len(whole)) as maps:
            logits = self.model(view.show(batch) if view else batch)
        terms = {"sl": soft_cross_entropy(logits, targets).sum() / (count + len(visited))}
        if maps:
            terms["apa"] = self.config.alpha1 * alignment.loss(maps, start) * (len(whole) / count)
        return terms
