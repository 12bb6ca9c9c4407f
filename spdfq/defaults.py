"""SPDFQ's defaults per model: learning rate and the weight of APA.

The paper tunes alpha1 for every model between 1 and 1e5 and does not publish the values. Those here follow
its range and the size of the raw loss (inferred): the higher the fewer heads share it. The learning rates are
PSAQ-ViT's, 0.20 for ViT and DeiT, 0.25 for Swin, which SPDFQ is thought to keep.
"""

from __future__ import annotations

from typing import NamedTuple


class ModelDefaults(NamedTuple):
    """alpha1: weight of L_APA; learning_rate: Adam's peak rate; iterations: Adam steps."""

    alpha1: float
    learning_rate: float
    iterations: int = 1000


_BY_NAME = {
    "deit_t": ModelDefaults(1e5, 0.20),
    "vit_t": ModelDefaults(1e5, 0.20),
    "deit_s": ModelDefaults(1e5, 0.20),
    "vit_s": ModelDefaults(1e5, 0.20),
    "deit_b": ModelDefaults(1e4, 0.20),
    "vit_b": ModelDefaults(1e4, 0.20),
    "swin_t": ModelDefaults(10.0, 0.25),
    "swin_s": ModelDefaults(10.0, 0.25),
    "swin_b": ModelDefaults(10.0, 0.25),
    # The embedded models: alpha1 by the rule alpha1 L_APA = L_SL, iterations so that the demo stays short.
    "vit_digits": ModelDefaults(1e3, 0.20, iterations=200),
    "swin_digits": ModelDefaults(10.0, 0.25, iterations=200),
}


def defaults_for(model: str) -> ModelDefaults:
    """Return the entry of a short name, or its family's for any other timm name."""
    if model in _BY_NAME:
        return _BY_NAME[model]
    return _BY_NAME["swin_t" if "swin" in model else "deit_b"]
