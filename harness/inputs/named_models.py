"""From what `--models` says to entries: short names, globs over them, full names of timm, one's own checkpoint."""

from __future__ import annotations

import fnmatch

from harness.inputs.own_models import checkpoint_named, own_entry
from harness.inputs.zoo import ENTRIES, FEATURES, IMAGENET, IMAGENET_CLASSES, ModelEntry
from methods.errors import UsageError, unknown_name


def select_models(patterns: list[str], weights: str | None = None) -> list[ModelEntry]:
    """Return the entries for short names, globs over them, and full timm names, without repeats.

    weights: what `--weights` says; where that is a file, the one model named is described by it
    (`harness.inputs.own_models`). Raises UsageError for a name neither the zoo nor timm knows, and for a glob that
    matches nothing.
    """
    chosen: dict[str, ModelEntry] = {}
    for pattern in patterns:
        matches = [ENTRIES[name] for name in fnmatch.filter(ENTRIES, pattern)] or [_timm_entry(pattern)]
        chosen |= {entry.name: entry for entry in matches}
    entries = list(chosen.values())
    file = checkpoint_named(weights)
    if file is None:
        return entries
    if len(entries) != 1 or entries[0].build is not None:
        raise UsageError(f"{file} holds one model: name its architecture, such as --models vit_tiny_patch16_224.")
    return [own_entry(entries[0], file)]


def _timm_entry(name: str) -> ModelEntry:
    """Return an entry for a full timm name; raises UsageError for a name or a family that is not known.

    Classes are ImageNet's if timm knows them as one of its sets; any other model is taken as a backbone.
    """
    import timm
    from timm.models import get_pretrained_cfg

    from methods.models.family import family_named

    arch = name.partition(".")[0]
    tags = timm.list_pretrained(f"{arch}.*") if timm.is_model(arch) else []
    if name not in (arch, *tags):
        raise unknown_name("model", name, [*ENTRIES, *tags])
    cfg = get_pretrained_cfg(name) if timm.is_model(arch) else None
    if cfg is None:
        raise unknown_name("model", name, ENTRIES)
    family_named(name)
    _, height, width = cfg.input_size
    if height != width:
        raise UsageError(f"{name} takes images of {height} x {width} pixels; only square ones can be made.")
    tag = f"{arch}.{cfg.tag}" if cfg.tag else arch
    task, names = _labels(cfg.num_classes)
    return ModelEntry(
        name=tag,
        tag=tag,
        expected_top1=next((entry.expected_top1 for entry in ENTRIES.values() if entry.tag == tag), None),
        crop=cfg.crop_pct,
        mean=tuple(cfg.mean),
        std=tuple(cfg.std),
        size=width,
        interpolation=cfg.interpolation,
        crop_mode=cfg.crop_mode,
        task=task,
        classes=0 if task == FEATURES else cfg.num_classes,
        class_names=names,
    )


def _labels(classes: int) -> tuple[str, tuple[str, ...]]:
    """Return the task of a model of timm with so many outputs, and the WordNet ids of a larger set of ImageNet."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": classes})
    if classes == IMAGENET_CLASSES or subset is None:
        return FEATURES if subset is None else IMAGENET, ()
    return subset, tuple(ImageNetInfo(subset).label_names())
