"""The method `spdfq`: L_G = alpha1 L_APA + L_SL + 0.05 L_TV over whole images and their regions.

arXiv 2412.16553 (SPDFQ; SARDFQ at ICCV 2025). Every part can be switched off on its own: without SL targets
are one-hot, without MSR there are no regions, without APA no attention is read. With `jitter` and `flip`, priors
go along with the images, and every view, region or whole, is moved alike. `spdfq` has the settings found here where
the paper leaves a choice, `spdfq_paper` those of a first, plain reading (`spdfq.defaults`).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from methods.contracts import Method, SynthesisContext, SyntheticImages
from methods.optimisation.loop import optimize_images
from methods.optimisation.snapshots import Resumption
from spdfq.ablation import ROWS
from spdfq.apa import check_movable, deep_sites
from spdfq.config import SPDFQConfig
from spdfq.defaults import defaults_for
from spdfq.draws import STARTS
from spdfq.objective import Objective


class SPDFQ(Method):
    """Semantics Prompting Data-Free Quantization."""

    name = "spdfq"
    version = 2
    paper = "SPDFQ / SARDFQ (arXiv 2412.16553; ICCV 2025)"
    config_class = SPDFQConfig
    resumable = True
    short: ClassVar = {"iterations": 100}
    inferred = (
        "laws of priors, regions, soft labels; alpha1; rate, schedule, jitter; start, which the paper has otherwise"
    )
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
        """Return what was found here for the model's family."""
        given = defaults_for(model)
        return SPDFQConfig(**(given.settings() | given.found))

    def check(self, model: nn.Module, config: SPDFQConfig) -> None:
        """Refuse models without attention maps for the priors, or whose priors cannot move, unless APA is off."""
        if config.apa and config.alpha1 > 0:
            sites = deep_sites(model, config.first_layer)
            if config.jitter or config.flip:
                check_movable(sites)

    def needs_real_images(self, config: SPDFQConfig) -> bool:
        """Return True only for the ablation that takes its priors from real images."""
        return config.apa and config.prior_law == "real"

    def image_passes(self, config: SPDFQConfig) -> float:
        """Count whole images and the mean number of regions, at every step."""
        regions = {"all": (config.regions + 1) / 2, "one": 1.0, "turns": 0.0}[config.region_schedule]
        return config.iterations * config.images * (1 + regions * config.msr)

    def synthesize(self, model: nn.Module, config: SPDFQConfig, context: SynthesisContext) -> SyntheticImages:
        """Draw targets, regions and priors, then optimise the pixels."""
        objective = Objective(model, config, context)
        start = STARTS[config.start](config.images, context.space, context.generator)
        images, losses = optimize_images(
            start.to(context.device),
            objective,
            config.loop(),
            context.space,
            context.report,
            resumption=Resumption.of(context),
        )
        regions = torch.tensor([[r.image, r.top, r.left, r.side] for r in objective.regions], dtype=torch.int64)
        labels = torch.tensor([chosen[0] for chosen in objective.relevant])
        return SyntheticImages(
            images=images.cpu(),
            targets=objective.targets[: config.images].cpu(),
            losses=losses,
            extras={"regions": regions.reshape(-1, 4), "labels": labels, **objective.reached(images)},
        )


class SPDFQPaper(SPDFQ):
    """SPDFQ with nothing in it that the paper does not state or most plainly suggest."""

    name = "spdfq_paper"
    version = 1
    inferred = "laws of priors, regions and other soft labels; alpha1 per model; learning rate, schedule, no jitter"

    def default_config(self, model: str) -> SPDFQConfig:
        """Return the paper's defaults with the model's own alpha1 and learning rate."""
        return SPDFQConfig(**defaults_for(model).settings())
