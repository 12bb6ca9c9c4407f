"""Find a model's weights and load them, strictly: embedded, from a folder, from timm's hub, or random.

Every source but `random` comes down to one file, whose sha256 goes into all keys and records. Nothing is
ever unpickled beyond tensors (`weights_only=True`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from harness.inputs.digits import EMBEDDED
from harness.inputs.model_info import configuration
from harness.inputs.zoo import ModelEntry
from harness.record.files import hash_file, user_path
from methods.contracts import ImageSpace
from methods.errors import UsageError

if TYPE_CHECKING:
    from torch import nn


RANDOM = "random"


@dataclass(frozen=True)
class Weights:
    """Where the weights are: `path` is None for random ones, whose `sha256` is the word "random"."""

    path: Path | None
    sha256: str


def find_weights(entry: ModelEntry, source: str | None) -> Weights:
    """Locate the weights of `entry`.

    source: None (embedded models: the package; others: `DFQ_WEIGHTS`, else timm's hub), a folder, or
    "random". Raises UsageError when there is no such file and none can be fetched.
    """
    if source == RANDOM:
        return Weights(None, RANDOM)
    if entry.build is not None:
        return _at(EMBEDDED / f"{entry.tag}.safetensors")
    folder = source or os.environ.get("DFQ_WEIGHTS")
    return _at(_in_folder(entry, user_path(folder)) if folder else _from_hub(entry))


def _at(path: Path) -> Weights:
    return Weights(path, hash_file(path))


def _in_folder(entry: ModelEntry, folder: Path) -> Path:
    for suffix in (".safetensors", ".pth"):
        path = folder.absolute() / f"{entry.tag}{suffix}"  # workers may start elsewhere
        if path.is_file():
            return path
    raise UsageError(f"{folder} holds neither {entry.tag}.safetensors nor {entry.tag}.pth. {_ways(entry)}")


def _from_hub(entry: ModelEntry) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils.logging import set_verbosity_error

    set_verbosity_error()  # its lines about each try again say nothing that the sentence below does not
    try:
        return Path(hf_hub_download(f"timm/{entry.tag}", "model.safetensors"))
    except Exception as error:  # the hub client raises many kinds: no network, no such repository, no space
        raise UsageError(
            f"The hub gives no weights for {entry.name} ({type(error).__name__}). {_ways(entry)}"
        ) from error


def _ways(entry: ModelEntry) -> str:
    """Return the three ways to give a model its weights."""
    return (
        f"Weights for {entry.name} come (1) from timm's hub, with a network and neither --weights nor DFQ_WEIGHTS; "
        f"(2) by --weights DIR or DFQ_WEIGHTS, from DIR/{entry.tag}.safetensors or .pth; (3) from --weights random, "
        "for timing alone."
    )


def load_model(entry: ModelEntry, weights: Weights) -> nn.Module:
    """Build the model and load its weights; returns it frozen, in eval mode, on the CPU.

    Raises UsageError when the model cannot be run dry, when the file is damaged, is not a plain checkpoint, or is of
    another architecture (naming the first keys that do not fit).
    """
    import timm
    import torch

    from methods.models.architecture import check_runs, check_supported

    torch.manual_seed(0)  # random weights are the same everywhere; loaded ones replace them all
    model = entry.build() if entry.build else timm.create_model(entry.tag, pretrained=False)
    check_supported(model)
    if entry.expected_top1 is None:
        check_runs(model)
    if weights.path is not None:
        _load_strictly(model, entry, weights.path)
    vars(model)["pretrained_cfg"] = configuration(entry)
    return model.eval().requires_grad_(False)


def _load_strictly(model: nn.Module, entry: ModelEntry, path: Path) -> None:
    import torch
    from timm.models import load_state_dict as read
    from timm.models.swin_transformer import SwinTransformer, checkpoint_filter_fn

    try:
        tensors = read(str(path), device="cpu", weights_only=True)
        if isinstance(model, SwinTransformer):  # Microsoft's own files name and number some tensors otherwise
            tensors = checkpoint_filter_fn(tensors, model)
        if not all(isinstance(value, torch.Tensor) for value in tensors.values()):
            raise TypeError("it holds more than tensors")
    except Exception as error:  # safetensors, pickle and zip readers raise many kinds for a damaged file
        reason = (str(error) or "no reason given").splitlines()[0][:120]
        raise UsageError(
            f"{path} cannot be read as a checkpoint of tensors ({type(error).__name__}: {reason})."
        ) from error
    misfits = _misfits({k: v.shape for k, v in model.state_dict().items()}, {k: v.shape for k, v in tensors.items()})
    if misfits:
        raise UsageError(f"{path} is not a checkpoint of {entry.tag}: {'; '.join(misfits[:3])}.")
    broken = [key for key, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise UsageError(f"{path} holds NaN or infinity in {', '.join(broken[:3])}{more}.")
    model.load_state_dict(tensors, strict=True)


def _misfits(wanted: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> list[str]:
    """Describe every key that is missing, superfluous or of another shape."""
    lacking = [f"{key} is missing" for key in wanted if key not in found]
    strange = [f"{key} is not part of the model" for key in found if key not in wanted]
    reshaped = [
        f"{key} has shape {tuple(found[key])}, not {tuple(wanted[key])}"
        for key in wanted
        if key in found and tuple(found[key]) != tuple(wanted[key])
    ]
    return lacking + reshaped + strange


def image_space(entry: ModelEntry) -> ImageSpace:
    """Return the normalized pixel space of a model."""
    return ImageSpace(entry.size, entry.size, entry.mean, entry.std)


@lru_cache(maxsize=1)
def shared_model(entry: ModelEntry, weights: Weights) -> nn.Module:
    """Return a model that many trials of one process may read; it is frozen and must not be changed."""
    return load_model(entry, weights)
