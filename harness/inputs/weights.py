"""Find a model's weights and load them, strictly: embedded, from a folder or a file, from timm's hub, or random.

Every source but `random` comes down to one file, whose sha256 goes into all keys and records. Nothing is
ever unpickled beyond tensors (`weights_only=True`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.inputs.checkpoints import check_head, load_strictly
from harness.inputs.digits import EMBEDDED
from harness.inputs.model_info import configuration
from harness.inputs.own_models import checkpoint_named, classifiers
from harness.inputs.zoo import ModelEntry, build_model
from harness.record.files import hash_file, hash_key, user_path
from methods.contracts import ImageSpace
from methods.errors import UsageError

if TYPE_CHECKING:
    from torch import nn


RANDOM = "random"


@dataclass(frozen=True)
class Weights:
    """Where the weights are: `path` is None for random ones, whose `sha256` is the word "random"; of a checkpoint of
    one's own it is that of its file together with what is said of it."""

    path: Path | None
    sha256: str


def find_weights(entry: ModelEntry, source: str | None) -> Weights:
    """Locate the weights of `entry`.

    source: None (embedded models: the package; others: `DFQ_WEIGHTS`, else timm's hub), a folder, a file for an entry
    that describes it, or "random". Raises UsageError when there is no such file and none can be fetched.
    """
    if source == RANDOM:
        return Weights(None, RANDOM)
    if entry.architecture and (file := checkpoint_named(source)) is not None:
        return Weights(file, hash_key([hash_file(file), _described(entry)]))
    if entry.build is not None:
        return _at(EMBEDDED / f"{entry.tag}.safetensors")
    folder = source or os.environ.get("DFQ_WEIGHTS")
    return _at(_in_folder(entry, user_path(folder)) if folder else _from_hub(entry))


def _described(entry: ModelEntry) -> dict[str, Any]:
    """Return all that results depend on beside the tensors: one's own file may be measured under two descriptions."""
    return {field.name: getattr(entry, field.name) for field in fields(entry) if field.name not in ("name", "build")}


def _at(path: Path) -> Weights:
    check_head(path)
    return Weights(path, hash_file(path))


def _in_folder(entry: ModelEntry, folder: Path) -> Path:
    for suffix in (".safetensors", ".pth"):
        path = folder.absolute() / f"{entry.tag}{suffix}"  # workers may start elsewhere
        if path.is_file():
            return path
    raise _with_ways(f"{folder} holds neither {entry.tag}.safetensors nor {entry.tag}.pth.", entry)


def _from_hub(entry: ModelEntry) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils.logging import set_verbosity_error

    set_verbosity_error()  # its lines about each try again say nothing that the sentence below does not
    try:
        return Path(hf_hub_download(f"timm/{entry.tag}", "model.safetensors"))
    except Exception as error:  # the hub client raises many kinds: no network, no such repository, no space
        raise _with_ways(f"The hub gives no weights for {entry.name} ({type(error).__name__}).", entry) from error


def _with_ways(sentence: str, entry: ModelEntry) -> UsageError:
    """Return an error whose notes are the three ways to give a model its weights."""
    error = UsageError(f"{sentence} Weights for {entry.name} come from one of:")
    error.add_note("timm's hub: with a network, and neither --weights nor DFQ_WEIGHTS")
    error.add_note(f"a folder: --weights DIR or DFQ_WEIGHTS=DIR, with DIR/{entry.tag}.safetensors or .pth")
    error.add_note("nowhere: --weights random, for timing alone")
    return error


def load_model(entry: ModelEntry, weights: Weights) -> nn.Module:
    """Build the model and load its weights; returns it frozen, in eval mode, on the CPU.

    What had to be done for a checkpoint to fit stands in its `pretrained_cfg` as `adapted`. Raises UsageError when the
    model cannot be run dry, and for a file that does not hold its weights (`harness.inputs.checkpoints`).
    """
    import torch

    from methods.models.architecture import check_runs, check_supported

    torch.manual_seed(0)  # random weights are the same everywhere; loaded ones replace them all
    model = build_model(entry)
    vars(model)["pretrained_cfg"] = told = configuration(entry)
    check_supported(model)
    if entry.expected_top1 is None:
        check_runs(model)
    if weights.path is not None:
        dropped = () if entry.classes else classifiers(told["architecture"])
        told["adapted"] = load_strictly(model, entry.tag, weights.path, dropped)
    return model.eval().requires_grad_(False)


def image_space(entry: ModelEntry) -> ImageSpace:
    """Return the normalized pixel space of a model."""
    return ImageSpace(entry.size, entry.size, entry.mean, entry.std)


@lru_cache(maxsize=1)
def shared_model(entry: ModelEntry, weights: Weights) -> nn.Module:
    """Return a model that many trials of one process may read; it is frozen and must not be changed."""
    return load_model(entry, weights)
