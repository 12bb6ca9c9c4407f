"""L_G of SPDFQ for one step: alpha1 L_APA + L_SL + 0.05 L_TV, over whole images and their regions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import astuple
from typing import NamedTuple

import torch
from torch import Tensor, nn

from methods.contracts import SynthesisContext
from methods.models.architecture import attention_sites
from methods.models.attention import attention_maps, attention_outputs
from methods.optimisation.losses import soft_cross_entropy, total_variation, variation_target
from methods.optimisation.patch_similarity import (
    DensityLaw,
    patch_similarity_entropy,
    smallest_similarity,
    unit_tokens,
)
from methods.optimisation.views import View
from spdfq.apa import Alignment, check_movable, deep_sites
from spdfq.config import SPDFQConfig
from spdfq.draws import draw_classes, draw_regions, draw_targets, priors_of
from spdfq.msr import Region, crops

_REBALANCED = 10  # steps after which the weight of APA is set anew, where it follows the gradients


class Step(NamedTuple):
    """What a step looks at: whole images and regions, by index, and how they are shown."""

    wholes: list[int]
    parts: list[int]
    view: View | None
    alignment: Alignment


class Look(NamedTuple):
    """What a micro-batch of views comes to; graphs of its forward pass.

    labels: its share of L_SL; alignment: its share of L_APA, None where nothing is aligned; units: unit tokens of its
    whole images at every site whose patches are to vary; share: of the step's whole images.
    """

    labels: Tensor
    alignment: Tensor | None
    units: list[Tensor]
    share: float


class Objective:
    """L_G of one synthesis; all that is random in it is drawn at the start, or, where settings say so, per step."""

    def __init__(self, model: nn.Module, config: SPDFQConfig, context: SynthesisContext) -> None:
        self.model, self.config, self.context = model, config, context
        self.alpha1 = config.alpha1
        self.regions = draw_regions(config, context)
        self.relevant = draw_classes(config, context, self.regions)
        self.targets = draw_targets(config, context, self.relevant).to(context.device)
        sites = deep_sites(model, config.first_layer) if config.apa and config.alpha1 > 0 else []
        self.varied = attention_sites(model) if config.pse_weight > 0 else []
        self.smallest: list[float] = []
        self.jitter = config.views(context)
        if self.jitter:
            check_movable(sites)
        scale = config.attention_scale
        self.alignment = Alignment(
            sites, priors_of(model, sites, config, context), config.depth_weight, config.class_token_share, scale
        )
        shape = torch.empty((config.images, *context.space.shape), device="meta")
        self.variation_target = config.tv_scale * variation_target(shape, context.generator)

    def state(self) -> dict[str, Tensor]:
        """Return what steps change: the weight of APA, and the regions [k, 4] where they are redrawn."""
        alpha1 = torch.tensor(self.alpha1, dtype=torch.float64)
        rows = torch.tensor([astuple(region) for region in self.regions], dtype=torch.int64)
        return {"alpha1": alpha1, "regions": rows.reshape(-1, 4)}

    def resume(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` returned."""
        self.alpha1 = float(state["alpha1"])
        self.regions = [Region(*row) for row in state["regions"].tolist()]

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
        now = Step(wholes, parts, view, alignment)
        views, most = len(wholes) + len(parts), self.context.micro_batch
        rows = [slice(start, start + most) for start in range(0, views, most)]
        once = [self._look(images, now, rows[0])] if len(rows) == 1 else None
        if self.varied or (alignment.sites and self.config.apa_share > 0 and step % _REBALANCED == 0):
            self._settle(once or (self._look(images, now, part) for part in rows), images)
        for look in once or (self._look(images, now, part) for part in rows):
            yield self._terms(look)
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

    def _look(self, images: Tensor, now: Step, rows: slice) -> Look:
        """Pass a micro-batch of the step's views through the model, whole images first."""
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
        labels = self._label_loss(logits, targets, len(wholes), now)
        share = len(wholes) / count if count else 0.0
        alignment = now.alignment.loss(maps, seen) * share if maps else None
        sites = zip(self.varied, outputs, strict=True) if outputs else ()
        units = [unit_tokens(output[: len(wholes)], max(1, site.prefix)) for site, output in sites]
        return Look(labels, alignment, units, share)

    def _settle(self, looks: Iterable[Look], images: Tensor) -> None:
        """Set what hangs on all views of a step together, so that micro-batches do not change it.

        alpha1, where it follows the gradients: on the pixels the gradient of alpha1 L_APA is `apa_share` times that of
        L_SL; and for L_PSE the least similarity of patches at each site.
        """
        by_labels, by_maps, least = torch.zeros_like(images), torch.zeros_like(images), list[list[float]]()
        for look in looks:
            if self.config.apa_share > 0:
                by_labels += torch.autograd.grad(look.labels, images, retain_graph=True)[0]
                if look.alignment is not None:
                    by_maps += torch.autograd.grad(look.alignment, images, retain_graph=True)[0]
            if look.units:
                least.append([smallest_similarity(unit) for unit in look.units])
        self.smallest = [min(found) for found in zip(*least, strict=True)]
        if by_maps.any():
            self.alpha1 = self.config.apa_share * float(by_labels.norm() / by_maps.norm())

    def _terms(self, look: Look) -> dict[str, Tensor]:
        """Return the weighted terms of a micro-batch."""
        terms = {"sl": look.labels}
        if look.alignment is not None:
            terms["apa"] = self.alpha1 * look.alignment
        if look.units:
            of_sites = zip(look.units, self.smallest, strict=True)
            entropies = [patch_similarity_entropy(unit, DensityLaw(), least) for unit, least in of_sites]
            terms["pse"] = -self.config.pse_weight * look.share * torch.stack(entropies).sum() / len(look.units[0])
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
