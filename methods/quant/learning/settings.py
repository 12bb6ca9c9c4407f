"""How units are learned in block-by-block reconstruction, for every backend that does."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from methods.errors import UsageError

ROUNDINGS = ("nearest", "adaround")
SCALES = ("fixed", "learned")
TARGETS = ("network", "unit", "damped")
OBJECTIVES = ("local", "feature", "sensitivity", "fisher", "perturbation")


@dataclass(frozen=True)
class Learning:
    """How units are learned."""

    iterations: int = 100
    """Adam steps per unit; 0: none."""
    learning_rate: float = 4e-5
    """Of weights and biases at the first step, decayed to zero by a half cosine, as all rates are."""
    batch: int = 0
    """Images in a step, drawn anew for each; 0: all of them."""
    drop: float = 0.0
    """Probability with which a value of an activation is left in floating point while learning (QDrop: 0.5), in steps
    of 1/256."""
    rounding: str = "nearest"
    """`nearest` rounds the learned weight, `adaround` keeps the weight and learns which way each value is rounded
    (`methods.quant.quantizers.adaround`)."""
    rounding_rate: float = 1e-2
    """Learning rate of `adaround`. With steps x rate of 4 most roundings, of 16 four in ten are still between down and
    up when they are settled (a tiny ViT), and what was learned is lost with them."""
    rounding_weight: float = 0.01
    """Weight of its regulariser (AdaRound: 0.01)."""
    scales: str = "fixed"
    """`learned` learns the scales of activation quantizers as well (LSQ, `methods.quant.quantizers.learned_scale`)."""
    scale_rate: float = 1e-3
    """Learning rate of scales, each in units of what it is at the start (inferred: those of softmax outputs are a
    hundredth of others)."""
    target: str = "network"
    """What a unit learns to put out. `network`: what it does in the floating-point network, so that it makes up for
    the errors of those before it (SPDFQ); `unit`: what the floating-point unit makes of the same input; `damped`: a
    mixture of both (`methods.quant.learning.reconstruct`)."""
    damping: float = 0.25
    """Share of the network's output in the `damped` target (GPTAQ: 0.25)."""
    objective: str = "local"
    """The distance from the target (`methods.quant.learning.objectives` and `curvature`). `local`: squared, of the
    unit's output; `feature`: and of the penultimate feature that it leads to (GLF-Q); `sensitivity`: and weighted by
    what it does to the logits (LS-ViT); `fisher` (FIMA-Q), `perturbation` (APHQ-ViT): weighted by that alone. All are
    `local` for units with a path around them."""
    local_weight: float = 2.0
    """Weight of the local distance beside `feature` and `sensitivity` (GLF-Q: 2)."""
    rank: int = 5
    """Rank of the Fisher information in `fisher`: how often it is looked at (FIMA-Q's code: 5)."""
    affine: bool = False
    """Whether layers that add to a residual stream are scaled and shifted per channel when their unit is learned
    (QwT-v2, `methods.quant.learning.compensate`)."""
    held_out: float = 0.0
    """Share of the images that are kept back, with all crops of them; every tenth of the steps the unit is tried on
    them, and in the end it is what did best there. 0: it is what the last step leaves."""

    def __post_init__(self) -> None:
        if self.iterations < 0 or min(self.learning_rate, self.rounding_rate, self.scale_rate) <= 0:
            raise UsageError("Block-wise learning needs iterations >= 0 and learning rates > 0.")
        if self.batch < 0 or not 0 <= self.drop <= 1 or min(self.rounding_weight, self.local_weight) < 0:
            raise UsageError(
                "Block-wise learning needs batch >= 0, drop from 0 to 1, rounding_weight and local_weight >= 0."
            )
        if self.rank < 1:
            raise UsageError("rank must be at least 1.")
        if not 0 <= self.damping <= 1 or not 0 <= self.held_out < 1:
            raise UsageError("Block-wise learning needs damping from 0 to 1 and held_out from 0 to less than 1.")
        check_choices(self, {"rounding": ROUNDINGS, "scales": SCALES, "target": TARGETS, "objective": OBJECTIVES})


def check_choices(settings: object, choices: dict[str, Collection[str]]) -> None:
    """Raise UsageError for a setting, by its name, that is not among what it can be."""
    for key, known in choices.items():
        value = getattr(settings, key)
        if value not in known:
            raise UsageError(f"{key} must be one of {', '.join(known)}, not {value!r}.")
