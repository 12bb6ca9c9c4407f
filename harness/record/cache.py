"""The cache of what is dear to compute: syntheses and FP32 logits, one safetensors file each.

Every file carries a checksum of its key, its description and its tensors; a file that is damaged, or another key's, is
thrown away and made again. Files are written to a temporary name and renamed, so many processes may share one folder.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

from harness.record.files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Entry:
    """Tensors and a JSON-able description."""

    tensors: dict[str, Tensor]
    about: dict[str, Any]


@dataclass(frozen=True)
class Cache:
    """A folder of entries of one kind ("synthesis", "reference"), named by key."""

    folder: Path

    @classmethod
    def of(cls, results: Path, kind: str) -> Cache:
        """Return the cache of a kind under a results folder."""
        return cls(results / "cache" / kind)

    def path(self, key: str) -> Path:
        """Return where the entry of a key lies."""
        return self.folder / f"{key}.safetensors"

    def __contains__(self, key: str) -> bool:
        return self.path(key).is_file()

    def store(self, key: str, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        """Write an entry, in the place of whatever is there; NaN in `about` raises ValueError."""
        from safetensors.torch import save

        described = json.dumps(about, allow_nan=False)
        header = {"about": described, "sha256": checksum(tensors, key + described)}
        if self.path(key).is_dir():  # which no file can be renamed to
            rmtree(self.path(key))
        write_atomically(self.path(key), save({k: v.contiguous() for k, v in tensors.items()}, header))

    def load(self, key: str) -> Entry | None:
        """Return the entry of a key; None when there is none, or when it is damaged or another's (then removed)."""
        from safetensors import SafetensorError, safe_open

        path = self.path(key)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as stream:
                header = stream.metadata() or {}
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - no iterator
            if header["sha256"] == checksum(tensors, key + header["about"]):
                return Entry(tensors, json.loads(header["about"]))
        except (SafetensorError, KeyError, OSError, ValueError, RecursionError):
            path.unlink(missing_ok=True)
            return None
        path.unlink(missing_ok=True)
        return None


def sheet_path(results: Path, model: str, method: str, seed: int, key: str) -> Path:
    """Return where the contact sheet of a synthesis lies, under a name that says whose it is; key: its own."""
    return results / "images" / f"{telling_name(model, method, f'seed{seed}', key)}.png"


def telling_name(*words: str) -> str:
    """Return a file's name that says whose it is, by words and, last, a key; whatever a path could mean is `_`."""
    *said, key = words
    return re.sub(r"[^\w.-]+", "_", "-".join([*(word[:80] for word in said), key[:12]]))


def checksum(tensors: dict[str, Tensor], described: str = "") -> str:
    """Return the sha256 over names, types, shapes and bytes of tensors, and a text."""
    import torch

    digest = hashlib.sha256(described.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)  # numpy knows no bfloat16
    return digest.hexdigest()
