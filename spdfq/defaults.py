"""SPDFQ's defaults per model: weight of APA, learning rate and number of steps, each with where it comes from.

The paper tunes alpha1 for every model between 1 and 1e5 and does not publish the values. Where a model could be
measured, alpha1 is the power of ten that brings alpha1 L_APA nearest to L_SL at the first step (inferred), on
noise; where it could not, it is set by likeness (inferred). L_APA grows with the number of heads, so larger
models of a family would take the same or the next smaller power. Learning rates are PSAQ-ViT's, 0.20 for ViT and
DeiT and 0.25 for Swin, which SPDFQ is thought to keep; the schedule (`SPDFQConfig.warmup`) is PSAQ-ViT's too.
1000 steps are the paper's; the embedded models take 100, so that the demo stays short.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from methods.models.family import family_named


@dataclass(frozen=True)
class ModelDefaults:
    """alpha1: weight of L_APA; learning_rate: Adam's peak rate; iterations: Adam steps; source: of alpha1."""

    alpha1: float
    learning_rate: float
    iterations: int
    source: str

    def settings(self) -> dict[str, Any]:
        """Return the values by the names of SPDFQ's settings."""
        return {"alpha1": self.alpha1, "learning_rate": self.learning_rate, "iterations": self.iterations}


_LIKE_DEIT_T = "by likeness to deit_t"
_LIKE_SWIN = "by likeness to swin_digits"
BY_NAME = {
    "deit_t": ModelDefaults(1e4, 0.20, 1000, "rule: L_SL / L_APA = 5.9e3; search: results/search_alpha1"),
    "deit_s": ModelDefaults(1e4, 0.20, 1000, _LIKE_DEIT_T),
    "deit_b": ModelDefaults(1e4, 0.20, 1000, _LIKE_DEIT_T),
    "vit_t": ModelDefaults(1e4, 0.20, 1000, _LIKE_DEIT_T),
    "vit_s": ModelDefaults(1e4, 0.20, 1000, _LIKE_DEIT_T),
    "vit_b": ModelDefaults(1e4, 0.20, 1000, _LIKE_DEIT_T),
    "swin_t": ModelDefaults(10.0, 0.25, 1000, _LIKE_SWIN),
    "swin_s": ModelDefaults(10.0, 0.25, 1000, _LIKE_SWIN),
    "swin_b": ModelDefaults(10.0, 0.25, 1000, _LIKE_SWIN),
    "vit_digits": ModelDefaults(100.0, 0.20, 100, "rule: L_SL / L_APA = 1.7e2"),
    "swin_digits": ModelDefaults(10.0, 0.25, 100, "rule: L_SL / L_APA = 11"),
}


def defaults_for(model: str) -> ModelDefaults:
    """Return the defaults of a short name, or for another timm model those of its family."""
    return BY_NAME[model] if model in BY_NAME else BY_NAME[family_named(model).alike]
