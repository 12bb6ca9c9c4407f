"""L_G of SPDFQ for one step: alpha1 L_APA + L_SL + 0.05 L_TV, over whole images and their regions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from methods.contracts import SynthesisContext
from methods.errors import UsageError
from methods.models.architecture import attention_sites
from methods.models.attention import attention_maps, attention_outputs
from methods.models.sites import AttentionSite
from methods.optimisation.losses import soft_cross_entropy, total_variation, variation_target
from methods.optimisation.patch_similarity import DensityLaw, patch_similarity_entropy, unit_tokens
from methods.optimisation.views import View
from spdfq.apa import Alignment, check_movable, deep_sites, draw_priors, measured_priors
from spdfq.config import SPDFQConfig
from spdfq.msr import Region, crops
from spdfq.soft_labels import hard_labels

_REBALANCED = 10  # steps after which the weight of APA is set anew, where it follows the gradients


class Step(NamedTuple):
    """What a step looks at: whole images and regions, by index, and how they are shown."""

    wholes: list[int]
    parts: list[int]
    view: View | None
    alignment: Alignment
    rebalance: bool


class Objective:
    """L_G of one synthesis; all that is random in it is drawn at the start, or, where settings say so, per step."""

    def __init__(self, model: nn.Module, config: SPDFQConfig, context: SynthesisContext) -> None:
        self.model, self.config, self.context = model, config, context
        self.alpha1 = config.alpha1
        self.regions = self._draw_regions()
        self.relevant = self._draw_classes()
        self.targets = self._draw_targets().to(context.device)
        sites = deep_sites(model, config.first_layer) if config.apa and config.alpha1 > 0 else []
        self.varied = attention_sites(model) if config.pse_weight > 0 else []
        self.jitter = config.views(context)
        if self.jitter:
            check_movable(sites)
        scale = config.attention_scale
        self.alignment = Alignment(sites, self._priors(sites), config.depth_weight, config.class_token_share, scale)
        shape = torch.empty((config.images, *context.space.shape), device="meta")
        self.variation_target = config.tv_scale * variation_target(shape, context.generator)

    def _draw_regions(self) -> list[Region]:
        """Draw the regions of all images, none without MSR; as many per image as there are other classes."""
        if not self.config.msr:
            return []
        space, law = self.context.space, self.config.region_law()
        law = replace(law, most=min(law.most, self.context.classes - 1))
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
        parts = [[next(taken[region.image])] for region in self.regions]
        return (images if self.config.relevant == "all" else [chosen[:1] for chosen in images]) + parts

    def _draw_targets(self) -> Tensor:
        """Return the targets [views, classes]."""
        if self.config.soft_labels:
            return self.config.label_law().draw(self.relevant, self.context.classes, self.context.generator)
        return hard_labels(self.relevant, self.context.classes)

    def _priors(self, sites: list[AttentionSite]) -> list[Tensor]:
        """Draw the priors, or measure them on real images for the ablation that does so."""
        config, context = self.config, self.context
        if config.prior_law != "real":
            drawn = draw_priors(sites, config.images, config.priors(), context.generator, config.shared_prior)
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

    def __call__(self, images: Tensor, step: int) -> Iterator[dict[str, Tensor]]:
        """Yield the weighted terms of one step, a micro-batch of views at a time."""
        if self.config.redraw_regions and self.regions and step > 0:
            self._redraw()
        wholes, parts = self._visited()
        view = self.jitter.draw(self.config.loop().round_of(step)) if self.jitter else None
        alignment = self.alignment.seen(view, self.context.space.shape[1:]) if view else self.alignment
        rebalance = self.config.apa_share > 0 and step % _REBALANCED == 0
        now = Step(wholes, parts, view, alignment, rebalance)
        views = len(wholes) + len(parts)
        for start in range(0, views, self.context.micro_batch):
            yield self._terms(images, now, slice(start, start + self.context.micro_batch))
        if self.config.tv_weight > 0:
            yield {"tv": self.config.tv_weight * (total_variation(images) - self.variation_target).abs()}

    def _visited(self) -> tuple[list[int], list[int]]:
        """Return the whole images and the regions this step looks at, by index."""
        images, generator = range(self.config.images), self.context.generator
        if self.config.region_schedule == "all" or not self.regions:
            return list(images), list(range(len(self.regions)))
        order = torch.randperm(len(self.regions), generator=generator).tolist()
        one = {self.regions[index].image: index for index in order}
        if self.config.region_schedule == "one":
            return list(images), sorted(one.values())
        whole = (torch.rand(len(images), generator=generator) < 0.5).tolist()
        return [i for i in images if whole[i]], sorted(one[i] for i in images if not whole[i])

    def _redraw(self) -> None:
        """Move every region to a new place, keeping how many an image has and their labels."""
        space, law, moved = self.context.space, self.config.region_law(), list[Region]()
        for image in range(self.config.images):
            count = sum(region.image == image for region in self.regions)
            moved += law.place(image, count, space.height, space.width, self.context.generator)
        self.regions = moved

    def _terms(self, images: Tensor, now: Step, rows: slice) -> dict[str, Tensor]:
        """Return the terms of a micro-batch of the step's views, whole images first, as shares of the step's terms."""
        count = len(now.wholes)
        wholes = now.wholes[rows]
        parts = now.parts[max(0, rows.start - count) : max(0, rows.stop - count)]
        seen, visited = self._index(wholes), self._index([*wholes, *(len(images) + i for i in parts)])
        batch = torch.cat([images[seen], crops(images, [self.regions[i] for i in parts], self.config.interpolation)])
        targets = self.targets[visited]
        read = bool(wholes)
        with (
            attention_maps(now.alignment.sites if read else [], len(wholes)) as maps,
            attention_outputs(self.varied if read else []) as outputs,
        ):
            logits = self.model(now.view.show(batch) if now.view else batch)
        terms = {"sl": self._label_loss(logits, targets, len(wholes), now)}
        share = len(wholes) / count if count else 0.0
        if maps:
            loss = now.alignment.loss(maps, seen) * share
            if now.rebalance and rows.start == 0:
                self._rebalance(terms["sl"], loss, images)
            terms["apa"] = self.alpha1 * loss
        if outputs:
            terms["pse"] = -self.config.pse_weight * share * self._entropy(outputs, len(wholes))
        return terms

    def _index(self, rows: list[int]) -> Tensor:
        """Return indices on the run's device, which is not waited for."""
        return torch.tensor(rows, dtype=torch.int64).to(self.context.device, non_blocking=True)

    def _label_loss(self, logits: Tensor, targets: Tensor, wholes: int, now: Step) -> Tensor:
        """Return a micro-batch's share of L_SL."""
        losses = soft_cross_entropy(logits, targets)
        if self.config.label_mean == "views":
            return losses.sum() / (len(now.wholes) + len(now.parts))
        return losses[:wholes].sum() / max(1, len(now.wholes)) + losses[wholes:].sum() / max(1, len(now.parts))

    def _rebalance(self, labels: Tensor, alignment: Tensor, images: Tensor) -> None:
        """Set alpha1 so that on the pixels the gradient of alpha1 L_APA is `apa_share` times that of L_SL."""
        by_labels, by_maps = (
            torch.autograd.grad(loss, images, retain_graph=True)[0].norm() for loss in (labels, alignment)
        )
        if by_maps > 0:
            self.alpha1 = self.config.apa_share * float(by_labels / by_maps)

    def _entropy(self, outputs: list[Tensor], wholes: int) -> Tensor:
        """Return the mean over images of the patch-similarity entropy, summed over all sites."""
        units = [
            unit_tokens(output[:wholes], max(1, site.prefix))
            for site, output in zip(self.varied, outputs, strict=True)
        ]
        return torch.stack([patch_similarity_entropy(unit, DensityLaw()) for unit in units]).sum() / wholes
