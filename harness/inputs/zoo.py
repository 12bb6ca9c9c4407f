"""The model zoo: short names, each pinned to a checkpoint, its eval transform and its expected accuracy.

Bare timm names do not mean the checkpoints the papers used, so every entry names `arch.tag`. Transforms
are the papers' (DeiT at crop 0.875, ViT and Swin at 0.9, bicubic); expected top-1 is FP32 on the 50,000
ImageNet validation images as the papers give it (vit_t: timm's own table). Other timm models of known
families (`methods.models.family`) go by their full name, with timm's own transform and no expected accuracy; a
checkpoint of one's own is described by `harness.inputs.own_models`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from harness.inputs.digits import IMAGE_SIZE, build_swin_digits, build_vit_digits
from methods.errors import UsageError

if TYPE_CHECKING:
    from torch import nn


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
IMAGENET_CLASSES = 1000


IMAGENET, OWN, FEATURES = "imagenet", "own", "features"
"""Tasks of models that are not embedded: ImageNet-1k's classes, those of a checkpoint of one's own, and none at all.
The other sets of ImageNet are tasks by timm's name."""


@dataclass(frozen=True)
class ModelEntry:
    """A model, how it is built, and how pictures become its input.

    tag: timm's `arch.tag`, or the embedded file's stem; mean, std: of pixels in [0, 1], as many as the model takes
    channels; task: the labels it knows ("digits" or one of those above); classes: of its head, 0 for a backbone
    without one, whose output is its pooled feature; class_names: in the order of its outputs, empty for ImageNet-1k
    and where nobody says them; architecture: timm's name of what is built, empty where the tag tells it; arguments:
    further ones of timm's constructor; short: whether methods and backends take
    their short runs for it by default.
    """

    name: str
    tag: str
    crop: float = 0.9
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    expected_top1: float | None = None
    size: int = 224
    interpolation: str = "bicubic"
    task: str = IMAGENET
    classes: int = IMAGENET_CLASSES
    build: Callable[[], nn.Module] | None = None
    crop_mode: str = "center"
    class_names: tuple[str, ...] = ()
    architecture: str = ""
    arguments: tuple[tuple[str, Any], ...] = ()
    short: bool = False


def _deit(name: str, arch: str, top1: float) -> ModelEntry:
    return ModelEntry(name, f"{arch}_patch16_224.fb_in1k", crop=0.875, expected_top1=top1)


def _vit(name: str, arch: str, top1: float) -> ModelEntry:
    tag = f"{arch}_patch16_224.augreg_in21k_ft_in1k"
    return ModelEntry(name, tag, mean=HALF, std=HALF, expected_top1=top1)


def _swin(name: str, arch: str, source: str, top1: float) -> ModelEntry:
    return ModelEntry(name, f"{arch}_patch4_window7_224.{source}", expected_top1=top1)


def _digits(name: str, build: Callable[[], nn.Module], top1: float) -> ModelEntry:
    entry = ModelEntry(name, name, 1.0, HALF, HALF, top1, size=IMAGE_SIZE, task="digits", classes=10, build=build)
    return replace(entry, short=True)


ENTRIES = {
    entry.name: entry
    for entry in (
        _digits("vit_digits", build_vit_digits, 98.0),
        _digits("swin_digits", build_swin_digits, 98.0),
        _deit("deit_t", "deit_tiny", 72.21),
        _deit("deit_s", "deit_small", 79.85),
        _deit("deit_b", "deit_base", 81.85),
        _vit("vit_t", "vit_tiny", 75.46),
        _vit("vit_s", "vit_small", 81.39),
        _vit("vit_b", "vit_base", 84.54),
        _swin("swin_t", "swin_tiny", "ms_in1k", 81.35),
        _swin("swin_s", "swin_small", "ms_in1k", 83.20),
        _swin("swin_b", "swin_base", "ms_in22k_ft_in1k", 85.27),
    )
}


def build_model(entry: ModelEntry) -> nn.Module:
    """Return a new model of an entry with random weights; raises UsageError when timm cannot build it.

    Most architectures take the size of their images; those that do not run on any, or are refused by a dry run.
    """
    import timm
    from timm.models import get_pretrained_cfg

    if entry.build is not None:
        return entry.build()
    name = entry.architecture or entry.tag
    usual = get_pretrained_cfg(name)
    options: dict[str, Any] = {"num_classes": entry.classes, "in_chans": len(entry.mean)} | dict(entry.arguments)
    sized = {"img_size": entry.size} if usual and entry.size != usual.input_size[-1] else {}
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, **options, **sized)
    except TypeError as error:
        if "img_size" not in str(error):
            raise UsageError(f"timm cannot build {name} so: {error}.") from error
        model = timm.create_model(name, pretrained=False, **options)
    return model


# Of the zoo's models, for records that do not say it themselves; a test counts them again.
PARAMETERS = {
    "vit_digits": 308_042,
    "swin_digits": 567_046,
    "deit_t": 5_717_416,
    "deit_s": 22_050_664,
    "deit_b": 86_567_656,
    "vit_t": 5_717_416,
    "vit_s": 22_050_664,
    "vit_b": 86_567_656,
    "swin_t": 28_288_354,
    "swin_s": 49_606_258,
    "swin_b": 87_768_224,
}
