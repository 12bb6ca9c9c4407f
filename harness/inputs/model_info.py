"""What a model says of itself (timm's `pretrained_cfg`): its name, its input, how pictures become its input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.inputs.zoo import ENTRIES, ModelEntry
from methods.contracts import ImageSpace
from methods.errors import UsageError

if TYPE_CHECKING:
    from torch import nn


def configuration(entry: ModelEntry) -> dict[str, Any]:
    """Return what a model of the zoo is to say of itself, in timm's words."""
    architecture, _, tag = entry.tag.partition(".")
    return {
        "architecture": entry.architecture or architecture,
        "tag": tag,
        "input_size": (len(entry.mean), entry.size, entry.size),
        "interpolation": entry.interpolation,
        "crop_pct": entry.crop,
        "crop_mode": entry.crop_mode,
        "mean": entry.mean,
        "std": entry.std,
    }


def told(model: nn.Module) -> dict[str, Any]:
    """Return what a model says of itself, empty if it says nothing."""
    known: Any = getattr(model, "pretrained_cfg", None)
    return dict(known or {})


def name_of(model: nn.Module) -> str:
    """Return the zoo's name of a model's checkpoint, its architecture's name if the zoo has none."""
    known = told(model)
    tag = f"{known.get('architecture', '')}.{known.get('tag') or ''}".removesuffix(".")
    return next((entry.name for entry in ENTRIES.values() if entry.tag == tag), tag.partition(".")[0])


def classes_of(model: nn.Module) -> int:
    """Return how many classes a model tells apart."""
    stock: Any = model
    return int(stock.num_classes)


def space_of(model: nn.Module) -> ImageSpace:
    """Return the pixel space of a model's input; raises UsageError for a model that does not say it."""
    known = told(model)
    if not {"input_size", "mean", "std"} <= set(known):
        raise UsageError(
            f"This {type(model).__name__} does not say what its input is: its pretrained_cfg lacks "
            "input_size, mean or std."
        )
    stock: Any = model
    height, width = getattr(getattr(stock, "patch_embed", None), "img_size", None) or known["input_size"][1:]
    return ImageSpace(height, width, tuple(known["mean"]), tuple(known["std"]))
