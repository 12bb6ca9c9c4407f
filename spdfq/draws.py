"""What a synthesis of SPDFQ draws once, at its start: regions, classes of every view, soft labels, priors, images.

In this order, from the generator of the run: another order makes other images.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from methods.contracts import ImageSpace, SynthesisContext
from methods.errors import UsageError
from methods.models.sites import AttentionSite
from methods.optimisation.spectrum import frequencies
from spdfq.apa import draw_priors, measured_priors
from spdfq.config import SPDFQConfig
from spdfq.msr import Region
from spdfq.soft_labels import hard_labels

_COLOUR = 0.3  # standard deviation of a channel's own noise, that of the common one being 1


def draw_regions(config: SPDFQConfig, context: SynthesisContext) -> list[Region]:
    """Draw the regions of all images, none without MSR; as many per image as there are other classes."""
    if not config.msr:
        return []
    space, law = context.space, config.region_law()
    law = replace(law, most=min(law.most, context.classes - 1))
    return law.draw(config.images, space.height, space.width, context.generator)


def draw_classes(config: SPDFQConfig, context: SynthesisContext, regions: list[Region]) -> list[list[int]]:
    """Return the relevant classes of every view: whole images first, then the regions.

    A whole image's first class is its own and the others are its regions'; all differ.
    """
    images: list[list[int]] = []
    for image in range(config.images):
        count = 1 + sum(region.image == image for region in regions)
        order = torch.randperm(context.classes, generator=context.generator)
        images.append(order[:count].tolist())
    taken = [iter(chosen[1:]) for chosen in images]
    parts = [[next(taken[region.image])] for region in regions]
    return (images if config.relevant == "all" else [chosen[:1] for chosen in images]) + parts


def draw_targets(config: SPDFQConfig, context: SynthesisContext, relevant: list[list[int]]) -> Tensor:
    """Return the targets [views, classes]."""
    if config.soft_labels:
        return config.label_law().draw(relevant, context.classes, context.generator)
    return hard_labels(relevant, context.classes)


def priors_of(
    model: nn.Module, sites: list[AttentionSite], config: SPDFQConfig, context: SynthesisContext
) -> list[Tensor]:
    """Draw the priors, or measure them on real images for the ablation that does so.

    Raises UsageError where that ablation is asked for without real images.
    """
    if config.prior_law != "real":
        drawn = draw_priors(sites, config.images, config.priors(), context.generator, config.shared_prior)
        return [prior.to(context.device) for prior in drawn]
    if context.real_images is None:
        raise UsageError("spdfq.prior_law=real needs real calibration images (--calib-data DIR).")
    return measured_priors(model, sites, context.real_images(config.images).to(context.device))


def white_noise(count: int, space: ImageSpace, generator: torch.Generator) -> Tensor:
    """Return standard normal values [count, C, H, W]."""
    return torch.randn((count, *space.shape), generator=generator)


def natural_noise(count: int, space: ImageSpace, generator: torch.Generator) -> Tensor:
    """Return noise [count, C, H, W] whose amplitude falls as 1/f, around the middle of the box of pixels.

    The law is that of natural images (Field 1987), known without any. Channels are mostly alike; the standard
    deviation of every image is that of pixels spread evenly over the box; what lies outside is clipped. Inferred.
    """
    channels, height, width = space.shape
    noise = torch.randn((count, 1, height, width), generator=generator)
    noise = noise + _COLOUR * torch.randn((count, channels, height, width), generator=generator)
    slope = frequencies(height, width).reciprocal()
    slope[0, 0] = 0
    images = torch.fft.irfft2(torch.fft.rfft2(noise) * slope, s=(height, width))
    images = images / images.std(dim=(1, 2, 3), keepdim=True)
    low, high = space.bounds()
    images = (low + high) / 2 + images * (high - low) / 12**0.5
    return torch.minimum(torch.maximum(images, low), high)


STARTS = {"noise": white_noise, "natural": natural_noise}
