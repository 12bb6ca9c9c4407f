"""Residual streams: the running sums that the blocks of a transformer read through a LayerNorm and add to.

A stream can be turned by an orthogonal matrix without changing the function of the model, where all that writes to it
are linear layers and parameters and all that reads it are linear layers behind a LayerNorm. Streams that anything
else touches are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from timm.layers import LayerScale, Mlp
from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerBlock
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from methods.models.architecture import check_supported, padded

_POOLS = ("token", "avg")
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


def residual_streams(model: nn.Module) -> list[ResidualStream]:
    """Return the streams of a supported model that can be turned: one of a ViT, one per stage of a Swin.

    None of a ViT with a norm before its blocks, a gate, an MLP other than the plain one, or pooling by maximum; not
    the first stage of a Swin whose patches are normed, and none of one that pads its windows with zeros.
    """
    check_supported(model)
    if isinstance(model, VisionTransformer):
        streams = [_vit_stream(model)]
    else:
        assert isinstance(model, SwinTransformer)
        streams = _swin_streams(model)
    return [stream for stream in streams if stream is not None and _linear(model, stream)]


def _vit_stream(model: VisionTransformer) -> ResidualStream | None:
    outside = (model.norm_pre, model.patch_embed.norm)
    if model.global_pool not in _POOLS or not all(isinstance(norm, nn.Identity) for norm in outside):
        return None
    stream = ResidualStream(model.embed_dim, [Writer("patch_embed.proj")])
    stream.tokens = [name for name, _ in model.named_parameters(recurse=False)]
    for index, block in enumerate(model.blocks):
        if not isinstance(block, Block) or getattr(block.attn, "gate", None) is not None:
            return None
        _pass_block(stream, f"blocks.{index}", block)
    last = "norm" if isinstance(model.fc_norm, nn.Identity) else "fc_norm"
    heads = [name for name in ("head", "head_dist") if hasattr(model, name)]
    stream.readers.append(Reader(last, tuple(heads)))
    return stream


def _swin_streams(model: SwinTransformer) -> list[ResidualStream | None]:
    blocks = [module for module in model.modules() if isinstance(module, SwinTransformerBlock)]
    if any(padded(block) for block in blocks) or model.head.global_pool.pool_type not in _POOLS:
        return []
    stream = ResidualStream(model.embed_dim, [Writer("patch_embed.proj")])
    streams: list[ResidualStream | None] = []
    if isinstance(model.patch_embed.norm, nn.Identity):
        streams.append(stream)
    for index, stage in enumerate(model.layers):
        if isinstance(stage.downsample, PatchMerging):
            merging = f"layers.{index}.downsample"
            stream.readers.append(Reader(f"{merging}.norm", (f"{merging}.reduction",), copies=4))
            stream = ResidualStream(stage.downsample.out_dim, [Writer(f"{merging}.reduction")])
            streams.append(stream)
        for number, block in enumerate(stage.blocks):
            _pass_block(stream, f"layers.{index}.blocks.{number}", block)
    stream.readers.append(Reader("norm", ("head.fc",)))
    return streams


def _pass_block(stream: ResidualStream, name: str, block: nn.Module) -> None:
    """Add what a block reads and writes."""
    parts = (("norm1", "attn.qkv", "attn.proj", "ls1"), ("norm2", "mlp.fc1", "mlp.fc2", "ls2"))
    for norm, first, last, scale in parts:
        stream.readers.append(Reader(f"{name}.{norm}", (f"{name}.{first}",)))
        scaled = isinstance(getattr(block, scale, None), LayerScale)
        stream.writers.append(Writer(f"{name}.{last}", f"{name}.{scale}" if scaled else None))


def _linear(model: nn.Module, stream: ResidualStream) -> bool:
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
