"""Checkpoint files: read without running anything they hold, made to fit a model, loaded strictly.

Wrappers that training scripts leave (`model`, `state_dict`, `model_ema`, `module.`, `_orig_mod.`) are timm's to take
off, and so is what its own conversions do for a model of another image size or a file with its authors' names.
"""

from __future__ import annotations

import zipfile
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from methods.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
Tensors: TypeAlias = "dict[str, Tensor]"
_READABLE = 3
_MOST_BYTES = 1 << 35  # timm's largest checkpoints have 20 GB
_PICKLE = b"\x80"


def read_checkpoint(path: Path) -> Tensors:
    """Return the tensors of a checkpoint by name; nothing is ever unpickled beyond tensors (`weights_only=True`).

    Raises UsageError for what is damaged or holds more than tensors.
    """
    import torch
    from timm.models import load_state_dict

    check_head(path)
    try:
        tensors: Tensors = load_state_dict(str(path), device="cpu", weights_only=True)
        if not all(isinstance(value, torch.Tensor) for value in tensors.values()):
            raise TypeError("it holds more than tensors")
    except Exception as error:  # safetensors, pickle and zip readers raise many kinds for a damaged file
        raise _unreadable(path, error) from error
    return tensors


def check_head(path: Path) -> None:
    """Raise UsageError for what cannot be a checkpoint by its size or its frame, before all of it is read or hashed.

    A safetensors file's head must account for its size; others are zip or pickle files.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise UsageError(f"{path} is larger than {_MOST_BYTES >> 30} GiB, which no checkpoint here is.")
    try:
        if path.suffix == ".safetensors":
            metadata_of(path)
        elif not (zipfile.is_zipfile(path) or _begins(path, _PICKLE)):
            raise ValueError("neither a zip file nor a pickle")
    except OSError:
        raise
    except Exception as error:  # safetensors raises a kind of its own
        raise _unreadable(path, error) from error


def _begins(path: Path, sign: bytes) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(sign)) == sign


def _unreadable(path: Path, error: Exception) -> UsageError:
    reason = (str(error) or "no reason given").splitlines()[0][:120]
    return UsageError(f"{path} cannot be read as a checkpoint of tensors ({type(error).__name__}: {reason}).")


def metadata_of(path: Path) -> dict[str, str]:
    """Return the words in the head of a safetensors file; other files have none."""
    from safetensors import safe_open

    if path.suffix != ".safetensors":
        return {}
    with safe_open(str(path), framework="pt") as opened:
        return dict(opened.metadata() or {})


def load_strictly(model: nn.Module, name: str, path: Path, dropped: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Load a checkpoint into a model, in the model's precision, and return what had to be done for it to fit.

    name: what the model is called; dropped: modules whose tensors the model does without. Raises UsageError for a
    file that is damaged, of another architecture (naming the first keys that do not fit), or holds NaN or infinity.
    """
    tensors = read_checkpoint(path)
    left = [key for key in tensors if key.rpartition(".")[0] in dropped]
    wanted = model.state_dict()
    tensors = {key: value for key, value in tensors.items() if key not in left}
    notes = [f"left out: {', '.join(left)}"] if left else []
    if _misfits(wanted, tensors):
        converted = _converted(model, tensors)
        if not _misfits(wanted, converted):
            notes += _changes(tensors, converted)
            tensors = converted
    misfits = _misfits(wanted, tensors)
    if misfits:
        raise UsageError(f"{path} is not a checkpoint of {name}: {'; '.join(misfits[:_READABLE])}.")
    _require_numbers(path, wanted, tensors)
    model.load_state_dict(tensors, strict=True)
    return tuple(notes)


def _converted(model: nn.Module, tensors: Tensors) -> Tensors:
    """Return what timm's conversion for the model's family makes of tensors, the same where it has none for them."""
    convert = getattr(import_module(type(model).__module__), "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    try:
        converted: Tensors = convert(dict(tensors), model)
    except Exception:  # written for its authors' files, a conversion stumbles over any others
        return tensors
    return converted


def _changes(before: Tensors, after: Tensors) -> list[str]:
    """Say what a conversion did."""
    resized = [
        f"{key} resampled from {list(before[key].shape)} to {list(value.shape)}"
        for key, value in after.items()
        if key in before and before[key].shape != value.shape
    ]
    renamed = len(after.keys() - before.keys())
    return resized + ([f"{renamed} tensors renamed"] if renamed else [])


def _misfits(wanted: Tensors, found: Tensors) -> list[str]:
    """Describe every key that is missing, superfluous or of another shape."""
    lacking = [f"{key} is missing" for key in wanted if key not in found]
    strange = [f"{key} is not part of the model" for key in found if key not in wanted]
    reshaped = [
        f"{key} has shape {tuple(found[key].shape)}, not {tuple(wanted[key].shape)}"
        for key in wanted
        if key in found and found[key].shape != wanted[key].shape
    ]
    return lacking + reshaped + strange


def _require_numbers(path: Path, wanted: Tensors, found: Tensors) -> None:
    """Raise UsageError unless tensors are plain ones, real where the model's are, and finite in the model's type."""
    odd = [key for key, value in found.items() if not _is_plain(value, wanted[key])]
    if odd:
        raise UsageError(f"{path} holds no plain tensors of real numbers in {_first(odd)}.")
    broken = [key for key, value in found.items() if not value.to(wanted[key].dtype).isfinite().all()]
    if broken:
        raise UsageError(f"{path} holds NaN or infinity in {_first(broken)}.")


def _is_plain(value: Tensor, wanted: Tensor) -> bool:
    """Whether a tensor has its values with it, and no conversion to the wanted one's type drops a part of them."""
    import torch

    real = value.is_floating_point() or not wanted.is_floating_point()
    return real and value.layout is torch.strided and not value.is_meta


def _first(keys: list[str]) -> str:
    more = f" and {len(keys) - _READABLE} more" if len(keys) > _READABLE else ""
    return f"{', '.join(keys[:_READABLE])}{more}"
