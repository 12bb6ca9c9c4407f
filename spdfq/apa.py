"""APA, Attention Priors Alignment: pull the attention of deep heads towards random structured priors.

L_APA = sum over l = S..L, h = 1..H of (l/L) MSE(A^c_{l,h}, prior_{l,h}), S = L/2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from methods.errors import UsageError
from methods.models.architecture import attention_sites
from methods.models.attention import attention_maps
from methods.models.sites import AttentionSite
from methods.optimisation.views import View
from spdfq.priors import PriorLaw


@dataclass(frozen=True)
class Alignment:
    """The priors of one synthesis: for every aligned site a tensor [images, windows, heads, cells].

    They are drawn once and stay for the whole run, one per image, site, window and head (per window:
    inferred). depth_weight: weigh block l by l/L; class_token_share: scale each prior to the attention
    the head gives the patches at all, so that a row with the prefix tokens sums to 1 (inferred); scale: `sum`
    compares distributions, `max` maps and priors each divided by their largest value.
    """

    sites: Sequence[AttentionSite]
    priors: Sequence[Tensor]
    depth_weight: bool = True
    class_token_share: bool = False
    scale: str = "sum"

    def seen(self, view: View, size: tuple[int, int]) -> Alignment:
        """Return the alignment of images of a size (height, width) shown in a view: the priors go along with them."""
        priors = []
        for site, prior in zip(self.sites, self.priors, strict=True):
            offset = view.down * site.grid[0] / size[0], view.right * site.grid[1] / size[1]
            priors.append(moved_prior(prior, site.grid, offset, view.flipped))
        return replace(self, priors=priors)

    def loss(self, maps: Sequence[Tensor], images: Tensor) -> Tensor:
        """Return L_APA for maps of the images of these indices, each [n, windows, heads, cells].

        The mean squared error of a head is over images, windows and cells.
        """
        total = torch.zeros((), device=maps[0].device)
        for site, prior, reached in zip(self.sites, self.priors, maps, strict=True):
            target = prior[images]
            if self.scale == "max":
                target, reached = (given / given.amax(dim=-1, keepdim=True) for given in (target, reached))
            elif self.class_token_share:
                target = target * reached.detach().sum(dim=-1, keepdim=True)
            weight = site.depth / site.depths if self.depth_weight else 1.0
            total = total + weight * site.heads * (reached - target).square().mean()
        return total


def moved_prior(prior: Tensor, grid: tuple[int, int], offset: tuple[float, float], flipped: bool) -> Tensor:
    """Return priors [..., rows*columns] rolled by offsets (rows, columns) in cells, then flipped left to right.

    Between two whole offsets the map is interpolated linearly, so every sum stays.
    """
    shown: Tensor = prior.unflatten(-1, grid)
    for axis, distance in zip((-2, -1), offset, strict=True):
        whole = math.floor(distance)
        share = distance - whole
        shown = (1 - share) * shown.roll(whole, axis) + share * shown.roll(whole + 1, axis)
    return (shown.flip(-1) if flipped else shown).flatten(-2)


def check_movable(sites: Sequence[AttentionSite]) -> None:
    """Raise UsageError where a prior cannot go along with its image: attention in windows, which stay in place."""
    if any(site.windows > 1 for site in sites):
        raise UsageError("spdfq.jitter and spdfq.flip move priors with their images; windows (Swin) do not move.")


def deep_sites(model: nn.Module, first: float) -> list[AttentionSite]:
    """Return the sites with depth l >= S = first * L (the paper: first = 1/2)."""
    return [site for site in attention_sites(model) if site.depth >= first * site.depths]


def measured_priors(model: nn.Module, sites: Sequence[AttentionSite], images: Tensor) -> list[Tensor]:
    """Return the attention real images [n, C, H, W] get at every site, each map scaled to sum 1.

    The paper's ablation ("real attention maps"): tensors [n, windows, heads, cells]. Not data-free.
    """
    with torch.no_grad(), attention_maps(sites, len(images)) as maps:
        model(images)
    return [found / found.sum(dim=-1, keepdim=True) for found in maps]


def draw_priors(
    sites: Sequence[AttentionSite], images: int, law: PriorLaw, generator: torch.Generator, shared: float = 0.0
) -> list[Tensor]:
    """Draw one prior for every image, window and head of every site: tensors [images, windows, heads, cells].

    shared: the part of each that is a map of its image (and window), the same at all heads and sites.
    """
    seed = int(torch.randint(1 << 62, (), generator=generator)) if shared else 0
    priors = []
    for site in sites:
        maps = law.draw(images * site.windows * site.heads, site.grid, generator)
        prior = maps.reshape(images, site.windows, site.heads, -1)
        if shared:
            common = law.draw(images * site.windows, site.grid, torch.Generator().manual_seed(seed))
            prior = shared * common.reshape(images, site.windows, 1, -1) + (1 - shared) * prior
        priors.append(prior)
    return priors
