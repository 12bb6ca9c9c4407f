"""A checkpoint of one's own: what is said beside it of its input and its classes, and what its tensors tell.

`--models ARCHITECTURE --weights FILE` names it. What FILE.toml says goes first (FILE without its suffix), then timm's
`pretrained_cfg` in the metadata of a safetensors file, then the `config.json` that timm's hub puts beside it, then
what the architecture has of its own. The number of classes and of channels are read off the tensors.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from harness.inputs.checkpoints import SUFFIXES, metadata_of, read_checkpoint
from harness.inputs.zoo import FEATURES, IMAGENET, IMAGENET_CLASSES, OWN, ModelEntry
from harness.record.cells import Count, Name
from harness.record.files import read_toml, user_path
from methods.errors import UsageError

Spread = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(gt=0, le=1)]
CropMode = Literal["center", "squash", "border"]
Interpolation = Literal["bicubic", "bilinear", "nearest", "lanczos", "box", "hamming"]
Argument = str | int | float | bool | tuple[int, ...]


class Description(Struct, frozen=True, forbid_unknown_fields=True):
    """What FILE.toml says of a model; all of it may be left out."""

    # Of pixels in [0, 1], one number per channel.
    mean: tuple[float, ...] | None = None
    std: tuple[Spread, ...] | None = None
    # The share of the resized picture that is cut out, and how (timm's crop_pct and crop_mode).
    crop: Share | None = None
    crop_mode: CropMode | None = None
    interpolation: Interpolation | None = None
    # Height and width of the input in pixels.
    size: Count | None = None
    # How many classes there are; 0 for a backbone without a head.
    classes: Annotated[int, Meta(ge=0)] | None = None
    # In the order of the model's outputs; class folders of images bear these names.
    class_names: tuple[Name, ...] | None = None
    # Further arguments of timm's constructor.
    arguments: dict[str, Argument] | None = None


class _Pretrained(Struct, frozen=True):
    """timm's `pretrained_cfg`, as far as it is read."""

    input_size: tuple[int, int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[Spread, ...] | None = None
    crop_pct: Share | None = None
    crop_mode: CropMode | None = None
    interpolation: Interpolation | None = None
    num_classes: int | None = None
    label_names: tuple[Name, ...] | None = None


class _Hub(Struct, frozen=True):
    """timm's `config.json`, as far as it is read."""

    pretrained_cfg: _Pretrained = _Pretrained()
    num_classes: int | None = None
    label_names: tuple[Name, ...] | None = None
    model_args: dict[str, Argument] | None = None

    def description(self) -> Description:
        """Return it in the words of FILE.toml."""
        told = self.pretrained_cfg
        return Description(
            mean=told.mean,
            std=told.std,
            crop=told.crop_pct,
            crop_mode=told.crop_mode,
            interpolation=told.interpolation,
            size=told.input_size[-1] if told.input_size else None,
            classes=told.num_classes if self.num_classes is None else self.num_classes,
            class_names=self.label_names or told.label_names,
            arguments=self.model_args,
        )


def checkpoint_named(weights: str | None) -> Path | None:
    """Return the checkpoint that `--weights` names, None where it names a folder or nothing.

    Raises UsageError for a checkpoint that is not there.
    """
    path = user_path(weights).absolute() if weights else None
    if path is None or path.is_dir() or (path.suffix not in SUFFIXES and not path.is_file()):
        return None
    if not path.is_file():
        raise UsageError(f"There is no checkpoint {weights}.")
    return path


def own_entry(base: ModelEntry, file: Path) -> ModelEntry:
    """Return the entry of a checkpoint of the architecture of `base`, whose values stand where nothing is said.

    Raises UsageError for a description that is damaged, or that does not fit the checkpoint.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in read_checkpoint(file).items()}
    said, architecture = _described(file), base.tag.partition(".")[0]
    classes, names = _classes(architecture, shapes), said.class_names or ()
    stated = len(names) or said.classes
    if stated is not None and stated != classes:
        raise UsageError(f"{file} has a head of {classes} classes, but what is said beside it tells of {stated}.")
    if len(set(names)) != len(names):
        raise UsageError(f"{file}: two of its classes have one name.")
    values = {key: getattr(said, key) for key in ("mean", "std", "crop", "crop_mode", "interpolation", "size")}
    tag = file.stem if file.stem.startswith(f"{architecture}.") else f"{architecture}.{file.stem}"
    entry = replace(
        base,
        name=tag,
        tag=tag,
        architecture=architecture,
        expected_top1=None,
        task=_task(classes, names),
        classes=classes,
        class_names=names,
        arguments=tuple(sorted((said.arguments or {}).items())),
        **{key: value for key, value in values.items() if value is not None},
    )
    channels = _channels(architecture, shapes) or len(entry.mean)
    if not len(entry.mean) == len(entry.std) == channels:
        raise UsageError(
            f"{file} takes images of {channels} channels: {file.stem}.toml beside it must say a mean and a std of as "
            "many numbers."
        )
    return entry


def _task(classes: int, names: tuple[str, ...]) -> str:
    if classes == 0:
        return FEATURES
    return IMAGENET if classes == IMAGENET_CLASSES and not names else OWN


def _described(file: Path) -> Description:
    """Return what is said of a checkpoint, of each thing what goes first."""
    toml, config = file.with_suffix(".toml"), file.with_name("config.json")
    found = []
    try:
        if toml.is_file():
            found.append(msgspec.convert(read_toml(toml, "description"), Description))
        if (metadata := metadata_of(file).get("pretrained_cfg")) is not None:
            found.append(_Hub(msgspec.json.decode(metadata, type=_Pretrained)).description())
        if config.is_file():
            found.append(msgspec.json.decode(config.read_bytes(), type=_Hub).description())
    except (msgspec.MsgspecError, OSError) as error:
        raise UsageError(f"What is said of {file} cannot be read: {error}.") from error
    merged: dict[str, object] = {}
    for one in reversed(found):
        merged |= {key: value for key, value in msgspec.structs.asdict(one).items() if value is not None}
    return msgspec.convert(merged, Description)


def _classes(architecture: str, shapes: dict[str, tuple[int, ...]]) -> int:
    """Return of how many classes the head is, 0 where the checkpoint has none."""
    named = classifiers(architecture)
    return next((shapes[f"{name}.weight"][0] for name in named if f"{name}.weight" in shapes), 0)


def _channels(architecture: str, shapes: dict[str, tuple[int, ...]]) -> int | None:
    """Return how many channels the first convolution takes, None where the checkpoint has none of its name."""
    from timm.models import get_pretrained_cfg

    first = getattr(get_pretrained_cfg(architecture), "first_conv", None)
    names = (first,) if isinstance(first, str) else first or ()
    found = [shapes[f"{name}.weight"] for name in names if f"{name}.weight" in shapes]
    return found[0][1] if found and len(found[0]) == 4 else None


def classifiers(architecture: str) -> tuple[str, ...]:
    """Return the names that an architecture's classifier has, in timm or in the files of its authors."""
    from timm.models import get_pretrained_cfg

    named = getattr(get_pretrained_cfg(architecture), "classifier", None) or ()
    return (*((named,) if isinstance(named, str) else named), "head", "fc", "classifier")
