"""Architectures by name: what a file says of the model it was made from, and how to build that again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.inputs.model_info import classes_of, told
from harness.inputs.zoo import ENTRIES
from methods.errors import UsageError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Architecture:
    """name: timm's, or an embedded model's; empty for a model nobody can build by name. classes: of its head."""

    name: str
    classes: int


def architecture_of(model: nn.Module) -> Architecture:
    """Return what a model says of itself (timm's `pretrained_cfg`)."""
    return Architecture(str(told(model).get("architecture") or ""), classes_of(model))


def build(architecture: Architecture) -> nn.Module:
    """Return the model without its weights, frozen, in eval mode; raises UsageError for a name nobody knows."""
    import timm

    embedded = [entry for entry in ENTRIES.values() if entry.build and entry.name == architecture.name]
    if embedded and embedded[0].build:
        model = embedded[0].build()
    elif timm.is_model(architecture.name):
        model = timm.create_model(architecture.name, num_classes=architecture.classes)
    else:
        raise UsageError(
            f"The architecture {architecture.name!r} is not one timm can build; give the plain model as well."
        )
    return model.eval().requires_grad_(False)
