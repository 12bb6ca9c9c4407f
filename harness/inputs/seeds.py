"""The one place where random seeds are made: every use gets its own stream, named in words."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derived_seed(seed: int, *purpose: str) -> int:
    """Return a 63-bit seed for a purpose, independent between purposes."""
    text = "/".join((str(seed), *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str) -> torch.Generator:
    """Return a CPU generator for a purpose."""
    import torch

    return torch.Generator().manual_seed(derived_seed(seed, *purpose))
