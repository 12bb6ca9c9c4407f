"""How units are learned in block-by-block reconstruction, for every backend that does."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from methods.errors import UsageError

ROUNDINGS = ("nearest", "adaround")
SCALES = ("fixed", "learned")
TARGETS = ("network", "unit")


@dataclass(frozen=True)
class Learning:
    """How units are learned.

    iterations: Adam steps per unit (0: none); learning_rate: of weights and biases at the first step, decayed to
    zero by a half cosine, as all rates are; batch: images in a step, drawn anew for each (0: all of them); drop:
    probability with which a value of an activation is left in floating point while learning (QDrop: 0.5),
    in steps of 1/256; rounding: `nearest` rounds the learned weight, `adaround` keeps the weight and learns which
    way each value is rounded (`methods.quant.quantizers.adaround`), at `rounding_rate` and with `rounding_weight` on
    its regulariser (AdaRound: 0.01); scales: `learned` learns the steps of uniform activation quantizers as well
    (LSQ, `methods.quant.quantizers.learned_step`), at `scale_rate` in units of the activations; target: what a unit
    learns to put out, `network`: what it does in the floating-point network, so that it makes up for the errors of
    those before it (SPDFQ), or `unit`: what the floating-point unit makes of the same input.
    """

    iterations: int = 100
    learning_rate: float = 4e-5
    batch: int = 0
    drop: float = 0.0
    rounding: str = "nearest"
    rounding_rate: float = 1e-2
    rounding_weight: float = 0.01
    scales: str = "fixed"
    scale_rate: float = 4e-5
    target: str = "network"

    def __post_init__(self) -> None:
        if self.iterations < 0 or min(self.learning_rate, self.rounding_rate, self.scale_rate) <= 0:
            raise UsageError("Block-wise learning needs iterations >= 0 and learning rates > 0.")
        if self.batch < 0 or not 0 <= self.drop <= 1 or self.rounding_weight < 0:
            raise UsageError("Block-wise learning needs batch >= 0, drop from 0 to 1 and rounding_weight >= 0.")
        check_choices(self, {"rounding": ROUNDINGS, "scales": SCALES, "target": TARGETS})


def check_choices(settings: object, choices: dict[str, Collection[str]]) -> None:
    """Raise UsageError for a setting, by its name, that is not among what it can be."""
    for key, known in choices.items():
        value = getattr(settings, key)
        if value not in known:
            raise UsageError(f"{key} must be one of {', '.join(known)}, not {value!r}.")
