"""Residual streams: the running sums that the blocks of a transformer read through a LayerNorm and add to.

A stream can be turned by an orthogonal matrix without changing the function of the model, where all that writes to it
are linear layers and parameters and all that reads it are linear layers behind a LayerNorm. Streams that anything
else touches are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from timm.layers import LayerScale, Mlp
from torch import nn

POOLS = ("token", "avg")
"""Poolings that commute with a rotation; a maximum does not."""


@dataclass(frozen=True)
class Writer:
    """A linear or convolution layer whose output, scaled per channel by a LayerScale if there is one, is added."""

    layer: str
    scale: str | None = None


@dataclass(frozen=True)
class Reader:
    """A LayerNorm over `copies` tokens of the stream side by side, and the linear layers it feeds."""

    norm: str
    layers: tuple[str, ...]
    copies: int = 1


@dataclass
class ResidualStream:
    """Modules by name, in the order of computation; tokens: parameters [..., width] that are part of the sum."""

    width: int
    writers: list[Writer] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)


def pass_block(stream: ResidualStream, name: str, block: nn.Module) -> None:
    """Add what a block reads and writes."""
    parts = (("norm1", "attn.qkv", "attn.proj", "ls1"), ("norm2", "mlp.fc1", "mlp.fc2", "ls2"))
    for norm, first, last, scale in parts:
        stream.readers.append(Reader(f"{name}.{norm}", (f"{name}.{first}",)))
        scaled = isinstance(getattr(block, scale, None), LayerScale)
        stream.writers.append(Writer(f"{name}.{last}", f"{name}.{scale}" if scaled else None))


def turnable(model: nn.Module, stream: ResidualStream) -> bool:
    """Whether all that touches a stream is of the kinds that can be turned."""
    modules = dict(model.named_modules())
    norms = [modules.get(reader.norm) for reader in stream.readers]
    layers = [modules.get(layer) for reader in stream.readers for layer in reader.layers]
    writers = [modules.get(writer.layer) for writer in stream.writers]
    mlps = [modules.get(w.layer.removesuffix(".fc2")) for w in stream.writers if w.layer.endswith(".mlp.fc2")]
    return (
        all(isinstance(norm, nn.LayerNorm) for norm in norms)
        and all(isinstance(layer, nn.Linear) for layer in layers)
        and all(isinstance(layer, nn.Linear | nn.Conv2d) for layer in writers)
        and all(isinstance(mlp, Mlp) for mlp in mlps)
    )
