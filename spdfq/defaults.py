"""SPDFQ's settings per model: those found here (`spdfq`), and the paper as it was first read (`spdfq_paper`).

As read: the paper tunes alpha1 for every model between 1 and 1e5 and does not publish the values. Where a model could
be measured, alpha1 is the power of ten that brings alpha1 L_APA nearest to L_SL at the first step (inferred), on
noise; where it could not, it is set by likeness (inferred). L_APA grows with the number of heads, so larger
models of a family would take the same or the next smaller power. Learning rates are PSAQ-ViT's, 0.20 for ViT and
DeiT and 0.25 for Swin, which SPDFQ is thought to keep.

Found: chosen with DeiT-T on training images and seeds that no table reports (`results/spdfq_choices/`); the Swins have
them by likeness, but for rolls and flips, which windows do not allow. Of the paper's own words the start alone is
not kept: noise with the spectrum of photographs in place of white noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from methods.models.family import family_named


@dataclass(frozen=True)
class ModelDefaults:
    """SPDFQ's settings for a model."""

    alpha1: float
    """Weight of L_APA."""
    learning_rate: float
    """Adam's peak rate."""
    source: str
    """Where alpha1 comes from."""
    found: dict[str, Any]
    """What was found here for the family."""

    def settings(self) -> dict[str, Any]:
        """Return the values of the paper as read by the names of SPDFQ's settings."""
        return {"alpha1": self.alpha1, "learning_rate": self.learning_rate}


_ONE_CLASS = {"relevant": "own", "dominant": True, "label_mean": "images", "eps1": 10.0, "other": 0.0}
_IN_PLACE: dict[str, Any] = {"region_schedule": "turns", **_ONE_CLASS, "apa_share": 0.3, "start": "natural"}
_PHOTOGRAPHS = {**_IN_PLACE, "jitter": 15, "flip": 0.5, "rounds": 2, "warmup": 0.2}
_DIGITS: dict[str, Any] = {"region_schedule": "turns", **_ONE_CLASS, "apa_share": 0.3}

_LIKE_DEIT_T = "by likeness to deit_t"
_LIKE_SWIN = "by likeness to swin_digits"
_VIT = ModelDefaults(1e4, 0.20, _LIKE_DEIT_T, _PHOTOGRAPHS)
_SWIN = ModelDefaults(10.0, 0.25, _LIKE_SWIN, _IN_PLACE)
BY_NAME = {
    "deit_t": ModelDefaults(1e4, 0.20, "rule: L_SL / L_APA = 5.9e3; search: results/ablation_best", _PHOTOGRAPHS),
    "deit_s": _VIT,
    "deit_b": _VIT,
    "vit_t": _VIT,
    "vit_s": _VIT,
    "vit_b": _VIT,
    "swin_t": _SWIN,
    "swin_s": _SWIN,
    "swin_b": _SWIN,
    "vit_digits": ModelDefaults(100.0, 0.20, "rule: L_SL / L_APA = 1.7e2", _DIGITS),
    "swin_digits": ModelDefaults(10.0, 0.25, "rule: L_SL / L_APA = 11", _DIGITS),
}


def defaults_for(model: str) -> ModelDefaults:
    """Return the defaults of a short name, or for another timm model those of its family."""
    return BY_NAME[model] if model in BY_NAME else BY_NAME[family_named(model).alike]
