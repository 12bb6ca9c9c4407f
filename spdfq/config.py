"""The settings of `spdfq`: what the paper states, and every choice that it leaves open.

"paper" marks what the paper states; all else is inferred and a choice of ours (`docs/methods.md` has the table of
choices, with what else the words allow).
"""

from __future__ import annotations

from dataclasses import dataclass

from methods.contracts import SynthesisContext
from methods.errors import UsageError, unknown_name
from methods.optimisation.loop import LoopSettings
from methods.optimisation.views import Jitter
from spdfq.msr import RegionLaw
from spdfq.priors import PriorLaw
from spdfq.soft_labels import SoftLabelLaw

_CHOICES = {
    "start": ("noise", "natural"),
    "attention_scale": ("sum", "max"),
    "region_schedule": ("all", "one", "turns"),
    "interpolation": ("bilinear", "bicubic", "nearest"),
    "relevant": ("all", "own"),
    "label_mean": ("views", "images"),
}


@dataclass(frozen=True)
class SPDFQConfig:
    """Settings of SPDFQ; the defaults are the paper's where it states them."""

    # How many images (paper: 32), and Adam steps (paper: 1000).
    images: int = 32
    iterations: int = 1000
    # Peak rate in normalized pixel values, the share of a round's steps it rises over, and the rounds (PSAQ-ViT: 2).
    learning_rate: float = 0.2
    warmup: float = 0.1
    rounds: int = 1
    # Power of the frequency that the pixels' gradient is divided by, so that broad shapes move first
    # (`methods.optimisation.loop`).
    smoothing: float = 0.0
    # What the images begin as: standard normal `noise` (paper) or `natural` noise with a 1/f spectrum (`spdfq.start`).
    start: str = "noise"
    # Largest roll of a step of the first round, in pixels of a 224 px image, twice as far in the second; probability
    # of a horizontal flip. Priors move along (PSAQ-ViT: 15; 0.5).
    jitter: int = 0
    flip: float = 0.0
    # Of the forward passes (`methods.optimisation.loop`).
    precision: str = "fp32"

    # Weight of L_TV (paper: 0.05), and its target in multiples of PSAQ-ViT's.
    tv_weight: float = 0.05
    tv_scale: float = 1.0
    # Weight of PSAQ-ViT's patch-similarity entropy of the whole images; not of this paper.
    pse_weight: float = 0.0

    # Attention Priors Alignment, and its weight (paper: tuned per model, 1 to 1e5).
    apa: bool = True
    alpha1: float = 1e4
    # Above 0, alpha1 is set instead so that on the pixels APA's gradient is that many times L_SL's, every 10 steps.
    apa_share: float = 0.0
    # S/L (paper: 1/2), and whether block l is weighted by l/L (paper: yes).
    first_layer: float = 0.5
    depth_weight: bool = True
    # Whether a prior leaves the class token the attention it has; what maps and priors are divided by (`spdfq.apa`).
    class_token_share: bool = False
    attention_scale: str = "sum"
    # The priors (`spdfq.priors`): law (paper: gmm), most components (paper: 5), how they merge, their standard
    # deviations in grid sides, whether axes turn, and the share of each that all heads of an image have in common.
    prior_law: str = "gmm"
    components: int = 5
    combine: str = "sum"
    width_min: float = 0.05
    width_max: float = 0.25
    rotate: bool = True
    shared_prior: float = 0.0

    # Multi-Semantic Reinforcement and K_MSR (paper: 4); sides in image sides; whether regions are disjoint (paper).
    msr: bool = True
    regions: int = 4
    region_min: float = 0.25
    region_max: float = 0.5
    disjoint: bool = True
    # What a step looks at: the whole images and `all` their regions or `one` region of each; `turns`: one view of
    # each image, with even chances the whole or a region of it. New regions at every step; how they are resized.
    region_schedule: str = "all"
    redraw_regions: bool = False
    interpolation: str = "bilinear"

    # Soft-label Learning: range of Z at relevant classes (paper: 5, 10), and U(0, other) elsewhere.
    soft_labels: bool = True
    eps1: float = 5.0
    eps2: float = 10.0
    other: float = 1.0
    # What is relevant for a whole image: `all`, its own class and its regions', or its `own` alone; whether its own
    # has the largest entry.
    relevant: str = "all"
    dominant: bool = False
    # L_SL is the mean over all `views`, or over whole `images` and, in turn, over regions, added up.
    label_mean: str = "views"

    def __post_init__(self) -> None:
        if self.images < 1 or min(self.alpha1, self.tv_weight, self.tv_scale, self.pse_weight, self.apa_share) < 0:
            raise UsageError("spdfq needs images >= 1, alpha1 >= 0, tv_weight >= 0 and other weights and shares >= 0.")
        if not (0 <= self.first_layer <= 1 and 0 <= self.shared_prior <= 1):
            raise UsageError("spdfq.first_layer is a share of the depth, shared_prior of the priors: 0 to 1.")
        if self.jitter < 0 or not 0 <= self.flip <= 1:
            raise UsageError("spdfq needs jitter >= 0 and 0 <= flip <= 1.")
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                raise unknown_name(field.replace("_", " "), getattr(self, field), choices)
        self.loop(), self.priors(), self.region_law(), self.label_law()

    def loop(self) -> LoopSettings:
        """Return the settings of the shared loop."""
        return LoopSettings(
            self.iterations,
            self.learning_rate,
            warmup=self.warmup,
            precision=self.precision,
            rounds=self.rounds,
            smoothing=self.smoothing,
        )

    def views(self, context: SynthesisContext) -> Jitter | None:
        """Return what draws the views of the steps, None where images stay in place."""
        jitter = Jitter.growing(context.space.pixels(self.jitter), self.rounds, self.flip, context.generator)
        return jitter if any(jitter.limits) or self.flip else None

    def priors(self) -> PriorLaw:
        """Return the law of the attention priors."""
        return PriorLaw(self.prior_law, self.components, self.combine, self.width_min, self.width_max, self.rotate)

    def region_law(self) -> RegionLaw:
        """Return the law of the regions."""
        return RegionLaw(self.regions, self.region_min, self.region_max, self.disjoint)

    def label_law(self) -> SoftLabelLaw:
        """Return the law of the soft labels."""
        return SoftLabelLaw(self.eps1, self.eps2, self.other, self.dominant)
