"""Cells, the unit of measurement, and the keys that name cells, syntheses and FP32 references.

A key is the sha256 of canonical JSON of all that a result depends on. A synthesis' key has neither bits nor
backend in it, so every bit-width and backend of a row shares one synthesis.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, TypeAlias, TypedDict

from msgspec import Meta

from harness.record.files import hash_key
from methods.bits import PATTERN, Bits
from methods.text import shortened

Name: TypeAlias = Annotated[str, Meta(min_length=1)]
Sha256: TypeAlias = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Count: TypeAlias = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Setting: TypeAlias = str | int | float | bool
BitsWord: TypeAlias = Annotated[Bits, Meta(extra_json_schema={"type": "string", "pattern": PATTERN})]


def read_word(kind: type, word: object) -> Bits:
    """Return the bits of a word as records have it, the one type msgspec asks us about; raises ValueError."""
    bits = Bits.parse(str(word))
    if kind is not Bits or bits != word:
        raise ValueError(f"{shortened(str(word))!r} is not as bits are written")
    return bits


class ImageIdentity(TypedDict):
    """What tells one image set from another."""

    # What the set is called: its folder's last part, or the name of a built-in set.
    name: Name
    # How many images it has.
    n: Count
    # Checksum of its content: pixels and labels, or paths, sizes and labels of files.
    sha256: Sha256


@dataclass(frozen=True)
class Cell:
    """One measurement."""

    # Short or full timm name of the model.
    model: Name
    # What made the images it is quantized with.
    method: Name
    # What quantized it.
    backend: Name
    # w4a4: 4-bit weights, 4-bit activations; mxfp4: a number format; mixed precision: the default, "+", what it is
    # called, "-", and the start of the sha256 of default and patterns.
    bits: BitsWord
    # What all randomness of the cell is derived from.
    seed: Annotated[int, Meta(ge=0)]
    # The images evaluated on.
    data: ImageIdentity
    # {"name.key": value} of settings of this cell's method and backend that differ from the model's defaults.
    overrides: dict[str, Setting] = field(default_factory=dict)
    # The real images a method draws from; null for data-free methods.
    calibration: ImageIdentity | None = None

    def label(self) -> str:
        """Return a short name for progress lines."""
        return f"{self.model} {self.bits} {self.method} {self.backend} seed {self.seed}"


@dataclass(frozen=True)
class Identity:
    """What a cell's result depends on beside the cell: the versions of method and backend (which stand for
    their code and their defaults) and the weights."""

    method_version: int
    backend_version: int
    weights_sha256: str


def cell_key(cell: Cell, identity: Identity) -> str:
    """Return the key of a cell."""
    return hash_key({"cell": vars(cell), "identity": vars(identity)})


def synthesis_key(cell: Cell, identity: Identity) -> str:
    """Return the key of the images a cell is quantized with."""
    return hash_key(
        {
            "model": cell.model,
            "method": cell.method,
            "seed": cell.seed,
            "calibration": cell.calibration,
            "overrides": {k: v for k, v in cell.overrides.items() if k.partition(".")[0] == cell.method},
            "version": identity.method_version,
            "weights_sha256": identity.weights_sha256,
        }
    )


def reference_key(model: str, weights_sha256: str, data: ImageIdentity) -> str:
    """Return the key of a model's FP32 logits on an image set."""
    return hash_key({"model": model, "weights_sha256": weights_sha256, "data": data})
