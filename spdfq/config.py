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

    images: int = 32
    """How many images (paper: 32)."""
    iterations: int = 1000
    """Adam steps (paper: 1000)."""
    learning_rate: float = 0.2
    """Peak rate in normalized pixel values."""
    warmup: float = 0.1
    """Share of a round's steps that the rate rises over."""
    rounds: int = 1
    """Into how many equal rounds the steps are cut (PSAQ-ViT: 2)."""
    smoothing: float = 0.0
    """Power of the frequency that the pixels' gradient is divided by, so that broad shapes move first
    (`methods.optimisation.loop`)."""
    start: str = "noise"
    """What images begin as: standard normal `noise` (paper) or `natural` noise with a 1/f spectrum (`spdfq.draws`)."""
    jitter: int = 0
    """Largest roll of a step of the first round, in pixels of a 224 px image, twice as far in the second; priors move
    along (PSAQ-ViT: 15)."""
    flip: float = 0.0
    """Probability of a horizontal flip at a step; priors are flipped along (PSAQ-ViT: 0.5)."""
    precision: str = "fp32"
    """Of the forward passes, `fp32` or `bf16` (`methods.optimisation.loop`)."""

    tv_weight: float = 0.05
    """Weight of L_TV (paper: 0.05)."""
    tv_scale: float = 1.0
    """Target of L_TV in multiples of PSAQ-ViT's."""
    pse_weight: float = 0.0
    """Weight of PSAQ-ViT's patch-similarity entropy of the whole images; not of this paper."""

    apa: bool = True
    """Whether attention priors are aligned (Attention Priors Alignment)."""
    alpha1: float = 1e4
    """Weight of L_APA (paper: tuned per model, 1 to 1e5)."""
    apa_share: float = 0.0
    """Above 0, alpha1 is set every 10 steps instead, so that on the pixels APA's gradient is so many times L_SL's."""
    first_layer: float = 0.5
    """S/L, the depth from which blocks are aligned (paper: 1/2)."""
    depth_weight: bool = True
    """Whether block l is weighted by l/L (paper: yes)."""
    class_token_share: bool = False
    """Whether a prior leaves the class token the attention it has."""
    attention_scale: str = "sum"
    """What maps and priors are divided by, their `sum` or their `max` (`spdfq.apa`)."""
    prior_law: str = "gmm"
    """The law of the priors, `gmm` (paper), `laplace` or `real` (`spdfq.priors`)."""
    components: int = 5
    """Most components of a prior (paper: 5)."""
    combine: str = "sum"
    """How components merge, `sum` or `max`."""
    width_min: float = 0.05
    """Least standard deviation of a component, in grid sides."""
    width_max: float = 0.25
    """Largest standard deviation of a component, in grid sides."""
    rotate: bool = True
    """Whether components' axes are turned at random."""
    shared_prior: float = 0.0
    """Share of each prior that all heads of an image have in common."""

    msr: bool = True
    """Whether regions are views of their own (Multi-Semantic Reinforcement)."""
    regions: int = 4
    """K_MSR, most regions of an image (paper: 4)."""
    region_min: float = 0.25
    """Least side of a region, in image sides."""
    region_max: float = 0.5
    """Largest side of a region, in image sides."""
    disjoint: bool = True
    """Whether regions of an image share no pixel (paper: yes)."""
    region_schedule: str = "all"
    """What a step looks at: the whole images and `all` their regions or `one` region of each; `turns`: one view of
    each image, with even chances the whole or a region of it."""
    redraw_regions: bool = False
    """Whether regions get new places at every step."""
    interpolation: str = "bilinear"
    """How regions are resized: `bilinear`, `bicubic` or `nearest`."""

    soft_labels: bool = True
    """Whether targets are soft (Soft-label Learning), else one-hot."""
    eps1: float = 5.0
    """Least entry of Z at relevant classes (paper: 5)."""
    eps2: float = 10.0
    """Largest entry of Z at relevant classes (paper: 10)."""
    other: float = 1.0
    """Other entries of Z are drawn from U(0, other)."""
    relevant: str = "all"
    """What is relevant for a whole image: `all`, its own class and its regions', or its `own` alone."""
    dominant: bool = False
    """Whether a whole image's own class has the largest entry."""
    label_mean: str = "views"
    """L_SL is the mean over all `views`, or over whole `images` and, in turn, over regions, added up."""

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
